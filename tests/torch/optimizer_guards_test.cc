// What DistributedOptimizer refuses, with what words, and that it can be used afterwards.
#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

using ::testing::HasSubstr;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.status().code(), StatusCode::kInvalidArgument);
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Guards, WhatIsForTheTimeBetweenSteps) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({1, 1});
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
    w.sum().backward();
    EXPECT_THAT(error_of([&] { optimizer.zero_grad(); }),
                HasSubstr("between backward() and step()"));
    EXPECT_THAT(error_of([&] { optimizer.add_parameters({leaf({1})}); }),
                HasSubstr("add_parameters() was called between backward() and step()"));
    EXPECT_THAT(error_of([&] {
                  optimizer.add_param_group(::torch::optim::OptimizerParamGroup({leaf({1})}));
                }),
                HasSubstr("add_param_group() was called between backward() and step()"));
    optimizer.step();
    optimizer.zero_grad();
    EXPECT_FALSE(w.grad().defined());
    w.sum().backward();
    optimizer.synchronize();
    optimizer.zero_grad();
  });
}

TEST(Guards, MoreBackwardPassesThanAnnounced) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({1, 1});
    DistributedOptimizer optimizer(plain_sgd({w}), {{"weight", w}}, on(engine));
    w.sum().backward();
    const std::string error = error_of([&] { w.sum().backward(); });
    EXPECT_THAT(error, HasSubstr("\"weight\""));
    EXPECT_THAT(error, HasSubstr("raise backward_passes_per_step"));
    optimizer.synchronize();
    optimizer.zero_grad();
    w.sum().backward();  // as good as new
    optimizer.step();
  });
}

TEST(Guards, GradientsClearedBehindTheOptimizersBack) {
  run_world({2}, [](Engine& engine) {
    Tensor w = leaf({1, 1});
    DistributedOptimizer optimizer(plain_sgd({w}), {{"weight", w}}, on(engine));
    w.sum().backward();
    w.mutable_grad() = Tensor();
    EXPECT_THAT(error_of([&] { optimizer.step(); }), HasSubstr("cleared or replaced"));
    EXPECT_TRUE(w.eq(1).all().item<bool>());  // no step was made
    w.sum().backward();
    optimizer.step();
    EXPECT_TRUE(w.eq(0).all().item<bool>());
  });
}

TEST(Guards, Names) {
  run_world({1}, [](Engine& engine) {
    const Tensor v = leaf({1, 1}), w = leaf({1, 1});
    const auto make = [&](const NamedParameters& names) {
      return error_of([&] { DistributedOptimizer(plain_sgd({v, w}), names, on(engine)); });
    };
    EXPECT_THAT(make({{"v", v}}), HasSubstr("has no name"));
    EXPECT_THAT(make({{"v", v}, {"v", w}}), HasSubstr("\"v\" was given twice"));
    EXPECT_THAT(make({{"v", v}, {"", w}}), HasSubstr("empty name"));
    EXPECT_EQ(make({{"v", v}, {"w", w}, {"more", leaf({1, 1})}}), "nothing was thrown");
  });
}

TEST(Guards, Options) {
  run_world({1}, [](Engine& engine) {
    const Tensor w = leaf({1, 1});
    const auto make = [&](const std::function<void(DistributedOptimizerOptions&)>& change) {
      auto options = on(engine);
      change(options);
      return error_of([&] { DistributedOptimizer(plain_sgd({w}), {{"w", w}}, options); });
    };
    EXPECT_THAT(make([](auto& o) { o.backward_passes_per_step = 0; }), HasSubstr("at least 1"));
    EXPECT_THAT(make([](auto& o) { o.op = ReduceOp::kMin; }), HasSubstr("not with min"));
    EXPECT_THAT(make([](auto& o) { o.gradient_predivide_factor = 0; }), HasSubstr("positive"));
    EXPECT_THAT(make([](auto& o) {
                  o.op = ReduceOp::kSum;
                  o.gradient_predivide_factor = 2;
                }),
                HasSubstr("needs op average"));
    EXPECT_THAT(error_of([&] {
                  DistributedOptimizer(nullptr, {{"w", w}}, on(engine));
                }),
                HasSubstr("no optimizer"));
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
    w.sum().backward();
    EXPECT_THAT(error_of([&] { optimizer.set_backward_passes_per_step(2); }),
                HasSubstr("between two steps"));
    optimizer.step();
    EXPECT_THAT(error_of([&] { optimizer.set_backward_passes_per_step(0); }),
                HasSubstr("at least 1"));
  });
}

TEST(Guards, NoEngine) {
  const Tensor w = leaf({1, 1});
  try {
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.status().code(), StatusCode::kUnavailable);
  }
}

}  // namespace
}  // namespace khorus::torch::testing
