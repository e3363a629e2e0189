// What a cached round costs the busiest process grows with the fan-in, not with the world; the
// tree's depth grows with the logarithm. khorus_sim --scale prints the table.
#include "tests/sim/scale.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

namespace khorus::sim {
namespace {

int largest_world() {
  const char* soak = std::getenv("KHORUS_TEST_SOAK");
  return soak != nullptr && std::string(soak) == "1" ? 8192 : 1024;
}

TEST(Scale, CachedRoundsGrowWithTheFanInOnly) {
  for (int fan_in : {2, 8}) {
    const ScaleOptions options{fan_in, 40};
    for (int ranks = 8; ranks <= largest_world(); ranks *= 4) {
      const ScaleRow row = measure_scale(ranks, options);
      // One report and one decision on each of at most fan_in + 1 links; an id takes a byte or two
      // each way, with some constant bytes per message.
      const auto links = static_cast<uint64_t>(fan_in) + 1;
      EXPECT_LE(row.cached.messages, 2 * links) << ranks << " ranks, fan-in " << fan_in;
      EXPECT_LE(row.cached.bytes, 2 * links * (2 * 40 + 60)) << ranks << " ranks";
      EXPECT_GT(row.cached.messages, 0U);
      EXPECT_LT(row.cached.bytes, row.first.bytes);
    }
  }
}

TEST(Scale, FirstRoundsGrowWithTheFanInAndTheLengthOfRankSets) {
  const ScaleOptions options{8, 40};
  const RoundCost small = measure_scale(64, options).first;
  const RoundCost large = measure_scale(largest_world(), options).first;
  EXPECT_EQ(large.messages, small.messages);
  EXPECT_LT(large.bytes, small.bytes + small.bytes / 4);
}

TEST(Scale, DepthGrowsWithTheLogarithm) {
  for (int fan_in : {2, 3, 8, 16}) {
    for (int ranks = 8; ranks <= 1024; ranks *= 2) {
      const int bound = static_cast<int>(std::ceil(std::log(ranks) / std::log(fan_in))) + 1;
      EXPECT_LE(measure_scale(ranks, {fan_in, 1}).depth, bound) << ranks << " by " << fan_in;
    }
  }
}

}  // namespace
}  // namespace khorus::sim
