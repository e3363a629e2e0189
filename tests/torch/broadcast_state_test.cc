// Broadcast of parameters, buffers and the state of every optimizer of torch::optim.
#include "tests/torch/optimizers.h"
#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

CollectiveOptions collective(Engine& engine) {
  CollectiveOptions options;
  options.engine = &engine;
  return options;
}

TEST(BroadcastParameters, CoversParametersAndBuffers) {
  run_world({3}, [](Engine& engine) {
    ::torch::nn::Sequential model(::torch::nn::Conv1d(2, 3, 2), ::torch::nn::BatchNorm1d(3));
    {
      const ::torch::NoGradGuard no_grad;
      for (Tensor& parameter : model->parameters()) parameter.fill_(engine.rank() + 1);
      for (Tensor& buffer : model->buffers()) buffer.fill_(engine.rank() + 10);
    }
    broadcast_parameters(*model, 1, collective(engine));
    for (const Tensor& parameter : model->parameters()) {
      EXPECT_TRUE(parameter.eq(2).all().item<bool>());
      EXPECT_TRUE(parameter.requires_grad());
    }
    ASSERT_EQ(model->buffers().size(), 3U);
    for (const Tensor& buffer : model->buffers()) EXPECT_TRUE(buffer.eq(11).all().item<bool>());
  });
}

TEST(BroadcastParameters, TakesADictionaryAndNonContiguousTensors) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = (::torch::arange(6).view({2, 3}) + engine.rank() * 100).t();
    ::torch::OrderedDict<std::string, Tensor> parameters;
    parameters.insert("w", w);
    broadcast_parameters(parameters, 1, collective(engine));
    EXPECT_TRUE(w.equal((::torch::arange(6).view({2, 3}) + 100).t()));
  });
}

// Steps on the same examples everywhere, without Khorus.
void step_alone(Net& net, ::torch::optim::Optimizer& optimizer, int64_t steps) {
  for (int64_t step = 0; step < steps; ++step) {
    optimizer.step([&] {
      const ::torch::AutoGradMode grad(true);
      optimizer.zero_grad();
      const Tensor loss = loss_on(net, step, 0, 8);
      loss.backward();
      return loss;
    });
  }
}

struct History {
  const char* name;
  int64_t root_steps, other_steps;
};

class OptimizerStateTest : public ::testing::TestWithParam<std::tuple<OptimizerKind, History>> {};

// After the broadcast every rank goes on exactly as the root goes on.
TEST_P(OptimizerStateTest, RanksGoOnAsTheRoot) {
  const OptimizerKind& kind = std::get<0>(GetParam());
  const History& how = std::get<1>(GetParam());
  constexpr double kRootRate = 0.02;
  Net expected(::torch::kFloat64);
  const auto reference = kind.make(expected->parameters(), kRootRate);
  step_alone(expected, *reference, how.root_steps);
  step_alone(expected, *reference, 3);

  run_world({3}, [&](Engine& engine) {
    const bool is_root = engine.rank() == 1;
    Net net(::torch::kFloat64);
    const auto optimizer = kind.make(net->parameters(), is_root ? kRootRate : 0.5);
    step_alone(net, *optimizer, is_root ? how.root_steps : how.other_steps);
    broadcast_parameters(*net, 1, collective(engine));
    broadcast_optimizer_state(*optimizer, 1, collective(engine));
    EXPECT_EQ(optimizer->param_groups()[0].options().get_lr(), kRootRate);
    step_alone(net, *optimizer, 3);
    EXPECT_EQ(hash_of(net->parameters()), hash_of(expected->parameters()));
  });
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, OptimizerStateTest,
    ::testing::Combine(::testing::ValuesIn(optimizer_kinds()),
                       ::testing::Values(History{"AllFresh", 0, 0}, History{"RootUsed", 4, 0},
                                         History{"OthersUsed", 0, 4}, History{"AllUsed", 3, 5})),
    [](const auto& test) {
      return std::string(std::get<0>(test.param).name) + std::get<1>(test.param).name;
    });

TEST(BroadcastOptimizerState, WorksThroughADistributedOptimizer) {
  run_world({2}, [](Engine& engine) {
    Net net(::torch::kFloat64);
    const double rate = engine.rank() == 0 ? 0.03 : 0.7;
    DistributedOptimizerOptions options;
    options.engine = &engine;
    DistributedOptimizer optimizer(std::make_unique<::torch::optim::AdamW>(
                                       net->parameters(), ::torch::optim::AdamWOptions(rate)),
                                   net->named_parameters(), options);
    if (engine.rank() == 0) {
      const auto skip = optimizer.skip_synchronize();
      for (Tensor& p : net->parameters()) p.mutable_grad() = ::torch::ones_like(p);
      optimizer.step();
      optimizer.Optimizer::zero_grad();
    }
    broadcast_parameters(*net, 0, collective(engine));
    broadcast_optimizer_state(optimizer, 0, collective(engine));
    EXPECT_EQ(optimizer.param_groups()[0].options().get_lr(), 0.03);
    EXPECT_EQ(optimizer.state().size(), net->parameters().size());
    loss_on(net, 0, engine.rank() * 4, 4).backward();
    optimizer.step();
    require_identical(engine, net->parameters(), "after the broadcast");
  });
}

TEST(BroadcastOptimizerState, AnotherKindOfGroupsIsAnErrorThatSaysSo) {
  const auto errors = run_ranks({2}, [](Engine& engine) {
    Net net(::torch::kFloat64);
    auto parameters = net->parameters();
    if (engine.rank() == 1) parameters.pop_back();
    ::torch::optim::SGD optimizer(parameters, ::torch::optim::SGDOptions(0.1));
    broadcast_optimizer_state(optimizer, 0, collective(engine));
  });
  EXPECT_EQ(errors[0], "");
  EXPECT_THAT(errors[1], ::testing::HasSubstr("same parameter groups on every rank"));
}

}  // namespace
}  // namespace khorus::torch::testing
