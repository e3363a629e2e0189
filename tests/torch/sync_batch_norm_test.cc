// SyncBatchNorm against torch::nn::BatchNorm on the whole batch.
#include <torch/torch.h>

#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

SyncBatchNormOptions features(Engine& engine, int64_t count) {
  SyncBatchNormOptions options;
  options.num_features = count;
  options.engine = &engine;
  return options;
}

Tensor values(at::IntArrayRef shape, ::torch::Dtype dtype, double phase) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return (::torch::sin(::torch::arange(count, ::torch::kFloat64) * 1.3 + phase) * 3 + 10)
      .view(shape)
      .to(dtype);
}

struct Batches {
  const char* name;
  std::vector<int64_t> sizes;   // by rank
  std::vector<int64_t> places;  // extents after the features
  ::torch::Dtype dtype;
};

class SyncBatchNormTest : public ::testing::TestWithParam<Batches> {};

// Three training steps and one evaluation: outputs, gradients of input, weight and bias, and the
// running statistics.
TEST_P(SyncBatchNormTest, IsBatchNormOnTheWholeBatch) {
  const Batches& b = GetParam();
  const double tolerance = b.dtype == ::torch::kFloat64 ? 1e-10 : 2e-4;
  constexpr int64_t kFeatures = 3;
  int64_t whole = 0;
  for (const int64_t size : b.sizes) whole += size;
  const auto shape = [&b](int64_t batch) {
    std::vector<int64_t> extents{batch, kFeatures};
    extents.insert(extents.end(), b.places.begin(), b.places.end());
    return extents;
  };
  run_world({static_cast<int>(b.sizes.size())}, [&](Engine& engine) {
    SyncBatchNorm ours(features(engine, kFeatures));
    ::torch::nn::BatchNorm2d theirs(kFeatures);
    ours->to(b.dtype);
    theirs->to(b.dtype);
    const auto expect_close = [&](const Tensor& a, const Tensor& expected, const char* what) {
      EXPECT_TRUE(::torch::allclose(a, expected, tolerance, tolerance)) << what << a << expected;
    };
    int64_t first = 0;
    const auto rank = static_cast<size_t>(engine.rank());
    for (size_t r = 0; r < rank; ++r) first += b.sizes[r];
    for (int step = 0; step < 4; ++step) {
      if (step == 3) ours->eval(), theirs->eval();
      const Tensor all = values(shape(whole), b.dtype, step).requires_grad_(true);
      const Tensor mine = all.detach().narrow(0, first, b.sizes[rank]).clone().requires_grad_(true);
      const Tensor weights = values(shape(whole), b.dtype, step + 0.5) - 9;
      // BatchNorm2d wants four dimensions.
      const Tensor expected = theirs->forward(all.view({whole, kFeatures, -1, 1})).view_as(all);
      const Tensor output = ours->forward(mine);
      expect_close(output, expected.narrow(0, first, b.sizes[rank]), "output");
      (expected * expected * weights).sum().backward();
      (output * output * weights.narrow(0, first, b.sizes[rank])).sum().backward();
      if (step < 3) {
        expect_close(mine.grad(), all.grad().narrow(0, first, b.sizes[rank]), "gradient");
      }
    }
    for (const char* name : {"weight", "bias"}) {
      ReduceOptions sum;
      sum.name = name;
      sum.op = ReduceOp::kSum;
      sum.engine = &engine;
      expect_close(allreduce(ours->named_parameters()[name].grad(), sum),
                   theirs->named_parameters()[name].grad(), name);
    }
    for (const auto& item : theirs->named_buffers()) {
      expect_close(ours->named_buffers()[item.key()], item.value(), item.key().c_str());
    }
    require_identical(engine, ours->buffers(), "of running statistics");
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, SyncBatchNormTest,
                         ::testing::Values(Batches{"Even", {4, 4}, {5, 2}, ::torch::kFloat64},
                                           Batches{"Uneven", {1, 5, 2}, {3}, ::torch::kFloat64},
                                           Batches{
                                               "EmptyRank", {0, 3, 2}, {2, 2}, ::torch::kFloat64},
                                           Batches{"NoPlaces", {3, 2}, {}, ::torch::kFloat64},
                                           Batches{"OneRank", {6}, {2}, ::torch::kFloat64},
                                           Batches{"Float32", {3, 5}, {4, 4}, ::torch::kFloat32}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(SyncBatchNorm, TrainsTheModelThatOneRankTrains) {
  const auto make = [](const auto& norm) {
    ::torch::nn::Sequential net(::torch::nn::Linear(6, 8), norm, ::torch::nn::Tanh(),
                                ::torch::nn::Linear(8, 3));
    const ::torch::NoGradGuard no_grad;
    double phase = 0;
    for (Tensor& p : net->parameters()) {
      p.copy_(values(p.sizes(), ::torch::kFloat32, ++phase) * 0.2 - 2);
    }
    net->to(::torch::kFloat64);
    return net;
  };
  const auto loss_at = [](::torch::nn::Sequential& net, int64_t step, int64_t first,
                          int64_t count) {
    const auto [x, y] = examples(step, first, count, ::torch::kFloat64);
    return ::torch::mse_loss(net->forward(x), y);
  };
  auto alone = make(::torch::nn::BatchNorm1d(8));
  const auto sgd = plain_sgd(alone->parameters(), 0.1);
  for (int64_t step = 0; step < 20; ++step) {
    sgd->zero_grad();
    loss_at(alone, step, 0, 8).backward();
    sgd->step();
  }
  run_world({2}, [&](Engine& engine) {
    auto net = make(SyncBatchNorm(features(engine, 8)));
    DistributedOptimizer optimizer(plain_sgd(net->parameters(), 0.1), net->named_parameters(),
                                   on(engine));
    for (int64_t step = 0; step < 20; ++step) {
      optimizer.zero_grad();
      loss_at(net, step, engine.rank() * 4, 4).backward();
      optimizer.step();
    }
    EXPECT_LE(largest_difference(net->parameters(), alone->parameters()), 1e-9);
    EXPECT_LE(largest_difference(net->buffers(), alone->buffers()), 1e-9);
  });
}

TEST(SyncBatchNorm, OptionsAndClones) {
  run_world({2}, [](Engine& engine) {
    auto options = features(engine, 2);
    options.affine = options.track_running_stats = false;
    SyncBatchNorm bare(options);
    EXPECT_TRUE(bare->parameters().empty());
    const Tensor x = values({4, 2}, ::torch::kFloat64, engine.rank());
    const Tensor together = bare->forward(x);
    bare->eval();  // without running statistics: those of this rank's batch
    EXPECT_FALSE(bare->forward(x).allclose(together));

    options = features(engine, 2);
    options.momentum = std::nullopt;
    SyncBatchNorm average(options);
    average->forward(x);
    average->forward(x + 2);
    EXPECT_EQ(average->num_batches_tracked.item<int64_t>(), 2);
    const auto copy = std::dynamic_pointer_cast<SyncBatchNormImpl>(average->clone());
    EXPECT_TRUE(copy->running_mean.equal(average->running_mean));
    copy->running_mean.zero_();
    EXPECT_FALSE(copy->running_mean.equal(average->running_mean));
  });
}

TEST(SyncBatchNorm, RefusesWhatItCannotNormalise) {
  run_world({2}, [](Engine& engine) {
    const auto error_of = [](const std::function<void()>& action) -> std::string {
      try {
        action();
      } catch (const Error& error) {
        return error.what();
      }
      return "nothing was thrown";
    };
    SyncBatchNorm norm(features(engine, 2));
    EXPECT_THAT(error_of([&] { norm->forward(::torch::ones({4, 3})); }), HasSubstr("[4,3]"));
    EXPECT_THAT(error_of([&] { norm->forward(::torch::ones({2})); }), HasSubstr("[2]"));
    EXPECT_THAT(error_of([&] {
                  norm->forward(::torch::ones({1 - engine.rank(), 2}));
                }),
                HasSubstr("one value per feature"));
    const int64_t width = 2 + engine.rank();
    EXPECT_THAT(error_of([&] {
                  SyncBatchNorm(features(engine, width))->forward(::torch::ones({4, width}));
                }),
                AllOf(HasSubstr("\"sync_batch_norm.forward\""), HasSubstr("rank 1"),
                      HasSubstr("[*,3,2]"), HasSubstr("[*,3,3]")));
    EXPECT_EQ(error_of([&] { norm->forward(::torch::ones({4, 2})); }), "nothing was thrown");
    EXPECT_THAT(error_of([] { SyncBatchNorm(0); }), HasSubstr("at least 1"));
  });
}

}  // namespace
}  // namespace khorus::torch::testing
