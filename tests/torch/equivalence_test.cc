// N ranks with batch B train like one rank with batch N*B, and all ranks hold the same bits.
#include <cstdlib>

#include "tests/torch/optimizers.h"
#include "tests/torch/regression.h"
#include "tests/torch/variants.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

// 50 steps with KHORUS_TEST_SOAK.
int64_t full_length(int64_t otherwise) {
  return std::getenv("KHORUS_TEST_SOAK") != nullptr ? 50 : otherwise;
}

struct Case {
  int size;
  int64_t passes;
  int64_t fusion_threshold_bytes;
  ::torch::Dtype dtype;
  const char* optimizer;
};

std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return std::string(c.optimizer) + "_" + std::to_string(c.size) + "ranks_" +
         std::to_string(c.passes) + (c.passes == 1 ? "pass_" : "passes_") +
         (c.fusion_threshold_bytes == 0 ? "unfused_" : "fused_") +
         (c.dtype == ::torch::kFloat64 ? "float64" : "float32");
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int size : {2, 3, 4}) {
    for (const int64_t passes : {1, 3}) {
      for (const int64_t threshold : {int64_t{0}, int64_t{64} << 20}) {
        for (const auto dtype : {::torch::kFloat64, ::torch::kFloat32}) {
          all.push_back({size, passes, threshold, dtype, "sgd"});
          all.push_back({size, passes, threshold, dtype, "adamw"});
        }
      }
    }
  }
  return all;
}

class EquivalenceTest : public ::testing::TestWithParam<Case> {};

TEST_P(EquivalenceTest, RanksTogetherAreOneRankWithTheWholeBatch) {
  const Case& c = GetParam();
  Equivalence config;
  config.steps = full_length(12);
  config.make_optimizer = std::string(c.optimizer) == "sgd" ? make_sgd : make_adamw;
  config.dtype = c.dtype;
  config.passes = c.passes;
  const std::vector<Tensor> alone = train_alone(config, config.batch * c.size * c.passes);
  // The reference has learned something: else equality would say nothing.
  ASSERT_GT(largest_difference(alone, Net(c.dtype)->parameters()), 1e-2);

  run_world({c.size, c.fusion_threshold_bytes}, [&](Engine& engine) {
    const std::vector<Tensor> together = train_together(engine, config);
    EXPECT_LE(largest_difference(together, alone), tolerance_of(c.dtype));
  });
}

INSTANTIATE_TEST_SUITE_P(Grid, EquivalenceTest, ::testing::ValuesIn(cases()), name_of);

// Every optimizer of torch::optim: wrapped when it is new, and wrapped when it has state.
class EveryOptimizerTest
    : public ::testing::TestWithParam<std::tuple<OptimizerKind, int64_t /*steps before*/>> {};

TEST_P(EveryOptimizerTest, IsTheSameWrapped) {
  const auto& [kind, steps_before] = GetParam();
  Equivalence config;
  config.make_optimizer = [&kind = kind](std::vector<Tensor> parameters) {
    return kind.make(std::move(parameters), 0.02);
  };
  config.closure = std::string(kind.family) == "LBFGS";
  config.steps = config.closure ? 8 : full_length(15);
  config.steps_before = steps_before;
  const std::vector<Tensor> alone = train_alone(config, config.batch * 3);
  ASSERT_GT(largest_difference(alone, Net(config.dtype)->parameters()), 1e-2);
  run_world({3}, [&](Engine& engine) {
    // A line search may amplify a difference in the last bit.
    EXPECT_LE(largest_difference(train_together(engine, config), alone),
              config.closure ? 1e-7 : 1e-9);
  });
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryOptimizerTest,
                         ::testing::Combine(::testing::ValuesIn(optimizer_kinds()),
                                            ::testing::Values(int64_t{0}, int64_t{5})),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) +
                                  (std::get<1>(test.param) == 0 ? "Fresh" : "Used");
                         });

// Every option.
class EveryOptionTest : public ::testing::TestWithParam<std::tuple<Variant, int /*ranks*/>> {};

TEST_P(EveryOptionTest, KeepsTheEquivalence) {
  const auto& [variant, ranks] = GetParam();
  Equivalence config;
  config.make_optimizer = make_adamw;
  config.steps = full_length(12);
  variant.change(config);
  const std::vector<Tensor> alone = train_alone(config, config.batch * ranks * config.passes);
  run_world({ranks}, [&, tolerance = variant.tolerance](Engine& engine) {
    EXPECT_LE(largest_difference(train_together(engine, config), alone), tolerance);
  });
}

INSTANTIATE_TEST_SUITE_P(Options, EveryOptionTest,
                         ::testing::Combine(::testing::ValuesIn(variants()),
                                            ::testing::Values(1, 2, 3)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) + "_" +
                                  std::to_string(std::get<1>(test.param)) + "ranks";
                         });

// Two sets train at the same time, each as one rank with its whole batch.
TEST(Equivalence, HoldsInProcessSets) {
  Equivalence config;
  config.make_optimizer = make_adamw;
  const std::vector<Tensor> two = train_alone(config, config.batch * 2),
                            three = train_alone(config, config.batch * 3);
  run_world({5}, [&](Engine& engine) {
    const ProcessSet even = add_process_set({0, 2, 4}, &engine),
                     odd = add_process_set({1, 3}, &engine);
    Equivalence mine = config;
    mine.change = [&](DistributedOptimizerOptions& o) {
      o.process_set = (even.included() ? even : odd).process_set_id();
    };
    const auto trained = train_together(engine, mine);
    EXPECT_LE(largest_difference(trained, even.included() ? three : two), 1e-9);
    CollectiveOptions all;
    all.engine = &engine;
    barrier(all);  // the smaller set is done first
  });
}

// The comparison can fail: one rank's different example is seen.
TEST(Equivalence, IsLostWhenARankTrainsOnOtherExamples) {
  Equivalence config;
  const std::vector<Tensor> alone = train_alone(config, config.batch * 2 + 1);
  run_world({2}, [&](Engine& engine) {
    EXPECT_GT(largest_difference(train_together(engine, config), alone), 1e-9);
  });
}

}  // namespace
}  // namespace khorus::torch::testing
