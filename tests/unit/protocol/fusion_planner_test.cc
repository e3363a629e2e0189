// The fusion planner: only what may travel together does, within the threshold, and nothing is
// lost.
#include "core/protocol/fusion_planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

namespace khorus::protocol {
namespace {

using Plan = std::vector<std::vector<size_t>>;

wire::ResponseTensor allreduce(int64_t floats) {
  wire::ResponseTensor tensor;
  tensor.request.shape = {floats};
  return tensor;
}

TEST(FusionPlanner, FillsUpToTheThreshold) {
  const std::vector<wire::ResponseTensor> ready = {allreduce(10), allreduce(10), allreduce(5),
                                                   allreduce(1)};
  EXPECT_EQ(plan_fusion(ready, 100), (Plan{{0, 1, 2}, {3}}));
  EXPECT_EQ(plan_fusion(ready, 104), (Plan{{0, 1, 2, 3}}));
  EXPECT_EQ(plan_fusion(ready, 40), (Plan{{0}, {1}, {2, 3}}));
}

TEST(FusionPlanner, ThresholdZeroFusesNothing) {
  const std::vector<wire::ResponseTensor> ready = {allreduce(10), allreduce(1), allreduce(2)};
  EXPECT_EQ(plan_fusion(ready, 0), (Plan{{0}, {1}, {2}}));
}

TEST(FusionPlanner, ATensorOverTheThresholdStandsAlone) {
  const std::vector<wire::ResponseTensor> ready = {allreduce(1), allreduce(1000), allreduce(1)};
  for (const auto& bucket : plan_fusion(ready, 100)) {
    const bool has_large = std::find(bucket.begin(), bucket.end(), 1U) != bucket.end();
    EXPECT_TRUE(!has_large || bucket.size() == 1);
  }
}

TEST(FusionPlanner, AtMostSoManyTensorsTravelTogether) {
  const std::vector<wire::ResponseTensor> ready(kMaxFusedTensors + 1, allreduce(1));
  const Plan plan = plan_fusion(ready, 1 << 30);
  ASSERT_EQ(plan.size(), 2U);
  EXPECT_EQ(plan[0].size(), kMaxFusedTensors);
}

TEST(FusionPlanner, OtherClassesDoNotInterrupt) {
  std::vector<wire::ResponseTensor> ready = {allreduce(1), allreduce(1), allreduce(1),
                                             allreduce(1)};
  ready[1].request.dtype = DataType::kFloat64;
  ready[3].request.dtype = DataType::kFloat64;
  EXPECT_EQ(plan_fusion(ready, 1000), (Plan{{0, 2}, {1, 3}}));
}

TEST(FusionPlanner, KnowsWhatMayTravelTogether) {
  const wire::Request base;
  EXPECT_TRUE(fusable(base, base));
  const auto differs = [&](auto change) {
    wire::Request other = base;
    change(other);
    return !fusable(base, other);
  };
  EXPECT_TRUE(differs([](auto& r) { r.dtype = DataType::kInt32; }));
  EXPECT_TRUE(differs([](auto& r) { r.op = ReduceOp::kMax; }));
  EXPECT_TRUE(differs([](auto& r) { r.device = DeviceKind::kCuda; }));
  EXPECT_TRUE(differs([](auto& r) { r.process_set = 1; }));
  EXPECT_TRUE(differs([](auto& r) { r.prescale = 0.5; }));
  EXPECT_TRUE(differs([](auto& r) { r.postscale = 0.5; }));
  EXPECT_TRUE(differs([](auto& r) { r.kind = OpKind::kBroadcast; }));
  EXPECT_FALSE(differs([](auto& r) { r.name = "other"; }));
  EXPECT_FALSE(differs([](auto& r) { r.shape = {3, 4}; }));
  EXPECT_FALSE(differs([](auto& r) { r.group = "g"; }));
  for (OpKind kind : {OpKind::kAllgather, OpKind::kBarrier, OpKind::kExchange}) {
    wire::Request alone = base;
    alone.kind = kind;
    EXPECT_FALSE(fusable(alone, alone)) << to_string(kind);
  }
}

TEST(FusionPlanner, CountsBytes) {
  EXPECT_EQ(tensor_bytes(allreduce(10)), 40);
  wire::ResponseTensor scalar = allreduce(1);
  scalar.request.shape.clear();
  EXPECT_EQ(tensor_bytes(scalar), 4);
  wire::ResponseTensor gathered;
  gathered.request.kind = OpKind::kAllgather;
  gathered.request.dtype = DataType::kInt16;
  gathered.request.shape = {0, 3};
  gathered.extents = {2, 0, 5};
  EXPECT_EQ(tensor_bytes(gathered), 7 * 3 * 2);
  EXPECT_EQ(tensor_bytes(allreduce((int64_t{1} << 31) + 1)), 4 * ((int64_t{1} << 31) + 1));
}

TEST(FusionPlanner, LosesNothingAndKeepsOrderWithinBuckets) {
  std::mt19937 random(9);
  for (int round = 0; round < 500; ++round) {
    std::vector<wire::ResponseTensor> ready;
    for (auto i = random() % 40; i > 0; --i) {
      ready.push_back(allreduce(static_cast<int64_t>(random() % 50)));
      if (random() % 3 == 0) ready.back().request.kind = static_cast<OpKind>(random() % 5);
    }
    const int64_t threshold = static_cast<int64_t>(random() % 500);
    std::vector<size_t> seen;
    for (const auto& bucket : plan_fusion(ready, threshold)) {
      ASSERT_FALSE(bucket.empty());
      EXPECT_TRUE(std::is_sorted(bucket.begin(), bucket.end()));
      int64_t bytes = 0;
      for (size_t index : bucket) {
        bytes += tensor_bytes(ready[index]);
        seen.push_back(index);
        if (bucket.size() > 1) {
          EXPECT_TRUE(fusable(ready[bucket.front()].request, ready[index].request));
        }
      }
      EXPECT_TRUE(bucket.size() == 1 || bytes <= threshold);
    }
    std::sort(seen.begin(), seen.end());
    ASSERT_EQ(seen.size(), ready.size());
    for (size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i);
  }
}

}  // namespace
}  // namespace khorus::protocol
