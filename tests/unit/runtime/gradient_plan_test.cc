// Plans of gradients: nothing is left out, nothing overlaps, and the last reduction is early.
#include "khorus/gradient_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "core/runtime/reduction_times.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus {
namespace {

std::vector<GradientProfile> steady(size_t count, uint64_t elements, int64_t step_us) {
  std::vector<GradientProfile> gradients;
  for (size_t i = 0; i < count; ++i) {
    gradients.push_back({DataType::kFloat32, elements, static_cast<int64_t>(i) * step_us, true});
  }
  return gradients;
}

TEST(GradientPlan, NothingIsNothing) {
  const GradientPlan plan = plan_gradients({}, {});
  EXPECT_TRUE(plan.buckets.empty());
  EXPECT_EQ(plan.bytes, 0U);
}

TEST(GradientPlan, EveryGradientHasOnePlace) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<GradientProfile> gradients;
    for (uint64_t i = 0, count = 1 + random() % 60; i < count; ++i) {
      const DataType dtype = random() % 4 == 0 ? DataType::kFloat64 : DataType::kFloat32;
      gradients.push_back(
          {dtype, random() % 100000, static_cast<int64_t>(random() % 5000), random() % 9 != 0});
    }
    const GradientPlan plan =
        plan_gradients(gradients, {.latency_us = static_cast<double>(random() % 100),
                                   .bytes_per_us = 1 + static_cast<double>(random() % 10000)});
    std::set<size_t> seen;
    uint64_t end = 0;
    int64_t last_arrival = 0;
    for (const GradientPlan::Bucket& bucket : plan.buckets) {
      EXPECT_EQ(bucket.offset_bytes % 64, 0U);
      EXPECT_GE(bucket.offset_bytes, end);
      uint64_t elements = 0;
      int64_t before = 0;
      for (const size_t index : bucket.gradients) {
        EXPECT_TRUE(seen.insert(index).second);
        EXPECT_TRUE(gradients[index].fits);
        EXPECT_EQ(gradients[index].dtype, bucket.dtype);
        EXPECT_GE(gradients[index].arrival_us, before);
        before = gradients[index].arrival_us;
        elements += gradients[index].elements;
      }
      EXPECT_EQ(elements, bucket.elements);
      EXPECT_GE(before, last_arrival);
      last_arrival = before;
      end = bucket.offset_bytes + elements * element_size(bucket.dtype);
    }
    const auto fitting = std::count_if(gradients.begin(), gradients.end(),
                                       [](const GradientProfile& g) { return g.fits; });
    EXPECT_EQ(static_cast<int64_t>(seen.size()), fitting);
    EXPECT_GE(plan.bytes, end);
  }
}

// Reductions that are much faster than backward(): the last bucket is the last gradient alone, and
// the others are as large as the latency asks for.
TEST(GradientPlan, OnlyTheLastGradientIsLeftForTheEnd) {
  const GradientPlan plan = plan_gradients(steady(100, 250000, 10000), {50, 10000});
  ASSERT_GT(plan.buckets.size(), 2U);
  EXPECT_EQ(plan.buckets.back().gradients, std::vector<size_t>{99});
  for (size_t i = 0; i + 1 < plan.buckets.size(); ++i) {
    EXPECT_GE(plan.buckets[i].elements * 4, uint64_t{5000000}) << i;
  }
}

// Gradients that are all there at once are one bucket: every other cut costs a latency.
TEST(GradientPlan, WhatComesAtOnceIsOneBucket) {
  EXPECT_EQ(plan_gradients(steady(100, 250000, 0), {50, 10000}).buckets.size(), 1U);
}

TEST(GradientPlan, SmallModelsAreOneBucket) {
  EXPECT_EQ(plan_gradients(steady(20, 100, 5), {50, 5000}).buckets.size(), 1U);
}

// What is slow to move is moved in more pieces, so that little is left for the end.
TEST(GradientPlan, TheSpeedDecidesAboutTheLastBucket) {
  const auto gradients = steady(100, 25000, 100);
  const auto last = [&](const TransferCost& cost) {
    return plan_gradients(gradients, cost).buckets.back().gradients.size();
  };
  EXPECT_LT(last({.latency_us = 10, .bytes_per_us = 1200}),
            last({.latency_us = 1000, .bytes_per_us = 1200}));
  EXPECT_NE(plan_gradients(gradients, {.latency_us = 10, .bytes_per_us = 500}).buckets.size(),
            plan_gradients(gradients, {.latency_us = 10, .bytes_per_us = 50000}).buckets.size());
}

TEST(GradientPlan, WhatNeverCameIsPlacedLast) {
  std::vector<GradientProfile> gradients = steady(4, 1000, 10);
  gradients[1].arrival_us = -1;
  EXPECT_EQ(plan_gradients(gradients, {}).buckets.back().gradients.back(), 1U);
}

// ---- together with other ranks

using Plans = std::vector<std::optional<GradientPlan>>;

// Every rank runs `body`, which says what it has learnt.
Plans on_ranks(int size, const std::function<std::optional<GradientPlan>(Engine&)>& body) {
  Plans plans(static_cast<size_t>(size));
  test::Ranks(size).run(
      [&](Engine& engine) { plans[static_cast<size_t>(engine.rank())] = body(engine); });
  return plans;
}

std::optional<GradientPlan> learnt(Engine& engine, const std::vector<GradientProfile>& gradients) {
  const GradientLearning learning = learn_gradients(engine, "test", gradients);
  const Status status = learning.work->wait();
  EXPECT_TRUE(status.ok()) << status.to_string();
  return status.ok() ? learnt_plan(learning) : std::nullopt;
}

// Each rank sees the gradients in an order of its own, and one of them does not fit on one rank.
TEST(LearntPlan, IsTheSameOnAllRanks) {
  const Plans plans = on_ranks(3, [](Engine& engine) {
    std::vector<GradientProfile> gradients = steady(20, 30000, 1000);
    if (engine.rank() == 1) std::reverse(gradients.begin(), gradients.end());
    gradients[7].fits = engine.rank() != 2;
    gradients[8].arrival_us = engine.rank() == 0 ? -1 : 5;
    return learnt(engine, gradients);
  });
  ASSERT_TRUE(plans[0]);
  std::set<size_t> placed;
  for (size_t b = 0; b < plans[0]->buckets.size(); ++b) {
    for (const auto& plan : plans) {
      ASSERT_TRUE(plan && plan->buckets.size() == plans[0]->buckets.size());
      EXPECT_EQ(plan->buckets[b].gradients, plans[0]->buckets[b].gradients);
      EXPECT_EQ(plan->buckets[b].offset_bytes, plans[0]->buckets[b].offset_bytes);
    }
    placed.insert(plans[0]->buckets[b].gradients.begin(), plans[0]->buckets[b].gradients.end());
  }
  EXPECT_EQ(placed.size(), 19U);
  EXPECT_FALSE(placed.contains(7));
}

// The plan is made for the engine as it is: the slower it has been, the smaller the last bucket.
TEST(LearntPlan, KnowsWhatReductionsCost) {
  runtime::ReductionTimes times;
  EXPECT_GT(times.cost().bytes_per_us, 0);
  for (const uint64_t slower : {3, 1, 2}) {
    times.negotiated(slower * 7000);
    times.executed(1000, slower * 5000);
    times.executed(1000000, slower * 205000);
    times.executed(0, 1);
  }
  EXPECT_NEAR(times.cost().latency_us, 12, 1e-9);
  EXPECT_NEAR(times.cost().bytes_per_us, 5000, 1e-9);
}

TEST(LearntPlan, NothingFits) {
  const Plans plans = on_ranks(2, [](Engine& engine) {
    std::vector<GradientProfile> gradients = steady(3, 100, 1);
    for (GradientProfile& gradient : gradients) gradient.fits = engine.rank() == 1;
    return learnt(engine, gradients);
  });
  for (const auto& plan : plans) EXPECT_TRUE(plan && plan->buckets.empty());
}

// Nothing is learnt beside a rank that has joined; when it is back, all learn.
TEST(LearntPlan, WaitsForARankThatHasJoined) {
  const Plans plans = on_ranks(2, [](Engine& engine) {
    const auto gradients = steady(3, 100, 1);
    if (engine.rank() == 0) {
      EXPECT_FALSE(learnt(engine, gradients));
    }
    EXPECT_TRUE(engine.join_async()->wait().ok());
    return learnt(engine, gradients);
  });
  for (const auto& plan : plans) EXPECT_TRUE(plan && plan->buckets.size() == 1);
}

}  // namespace
}  // namespace khorus
