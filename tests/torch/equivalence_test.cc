// N ranks with batch B train like one rank with batch N*B, and all ranks hold the same bits.
#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

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
