// The tuner finds the top of surfaces that look like throughput, within its samples.
#include "core/protocol/fusion_tuner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <utility>

namespace khorus::protocol {
namespace {

using testing::HasSubstr;
using Surface = std::function<double(const FusionSettings&)>;

// Falls off by a tenth per power of two from the top.
Surface peak(int64_t threshold_bytes, int64_t window_us) {
  return [=](const FusionSettings& at) {
    const double a =
        std::log2(static_cast<double>(at.threshold_bytes) / static_cast<double>(threshold_bytes));
    const double b = std::log2(static_cast<double>(at.window_us) / static_cast<double>(window_us));
    return 1e9 * std::pow(0.9, std::abs(a)) * std::pow(0.9, std::abs(b));
  };
}

FusionTuner run(const FusionTuner::Options& options, const Surface& surface) {
  FusionTuner tuner(options);
  for (int i = 0; i < 1000 && !tuner.settled(); ++i) tuner.sample(surface(tuner.current()));
  EXPECT_TRUE(tuner.settled());
  return tuner;
}

FusionTuner::Options with_samples(int max_samples) {
  FusionTuner::Options options;
  options.max_samples = max_samples;
  return options;
}

TEST(FusionTuner, FindsTheTop) {
  for (const int64_t threshold : {int64_t{64} << 10, int64_t{1} << 20, int64_t{16} << 20,
                                  int64_t{64} << 20, int64_t{256} << 20}) {
    for (const int64_t window : {15, 125, 1000, 4000, 16000}) {
      const FusionTuner tuner = run(with_samples(100), peak(threshold, window));
      EXPECT_EQ(tuner.current(), (FusionSettings{threshold, window})) << tuner.verdict();
      EXPECT_THAT(tuner.verdict(), HasSubstr("was not better"));
    }
  }
}

// As the surfaces of real jobs: one side of the top is flat.
TEST(FusionTuner, StaysWhereNothingIsBetter) {
  const FusionTuner flat = run({}, [](const FusionSettings&) { return 5e8; });
  EXPECT_EQ(flat.current(), FusionSettings());
  EXPECT_THAT(flat.verdict(), HasSubstr("500.0 MB/s, the start"));
  const FusionTuner plateau =
      run({}, [](const FusionSettings& at) { return at.threshold_bytes >= 8 << 20 ? 5e8 : 3e8; });
  EXPECT_EQ(plateau.current(), FusionSettings());
}

TEST(FusionTuner, EndsWithinItsSamples) {
  for (const int max : {0, 1, 2, 7, 20}) {
    FusionTuner::Options options = with_samples(max);
    options.warmup_samples = 4;
    FusionTuner tuner(options);
    const Surface surface = peak(1 << 20, 125);
    int samples = 0;
    for (; !tuner.settled(); ++samples) tuner.sample(surface(tuner.current()));
    EXPECT_LE(samples, max == 0 ? 0 : max + 4);
    EXPECT_FALSE(tuner.verdict().empty());
  }
  // The default finds most of what is there to be found.
  const Surface surface = peak(1 << 20, 125);
  const FusionTuner tuner = run({}, surface);
  EXPECT_GT(surface(tuner.current()), 2 * surface(FusionSettings())) << tuner.verdict();
}

TEST(FusionTuner, WarmUpIsNotCounted) {
  FusionTuner::Options options;
  options.warmup_samples = 2;
  FusionTuner tuner(options);
  EXPECT_EQ(tuner.sample(9e9), "warm-up, not counted");
  EXPECT_EQ(tuner.sample(9e9), "warm-up, not counted");
  EXPECT_EQ(tuner.sample(1e9), "the start");
  EXPECT_EQ(tuner.sample(1.5e9), "better, once more");
  EXPECT_EQ(tuner.sample(1.5e9), "better again, the new best");
}

// Interference makes samples slower, one in three of them by up to a half. A choice is at worst
// what two disturbed samples of the start would be mistaken for.
TEST(FusionTuner, NoiseDoesNotLeadItAstray) {
  const Surface truth = peak(4 << 20, 250);
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const FusionTuner tuner = run(with_samples(60), [&](const FusionSettings& at) {
      const bool disturbed = random() % 3 == 0;
      const double factor = disturbed ? 0.5 + static_cast<double>(random() % 1000) / 2000 : 1;
      return truth(at) * factor;
    });
    EXPECT_GE(truth(tuner.current()), truth(FusionSettings()) * 0.8)
        << "seed " << seed << ": " << tuner.verdict();
  }
}

TEST(FusionTuner, IsDeterministicAndNeverRepeatsAPoint) {
  const Surface surface = peak(2 << 20, 500);
  FusionTuner first({}), second({});
  std::multiset<std::pair<int64_t, int64_t>> points;
  while (!first.settled()) {
    ASSERT_EQ(first.current(), second.current());
    points.emplace(first.current().threshold_bytes, first.current().window_us);
    const double score = surface(first.current());
    EXPECT_EQ(first.sample(score), second.sample(score));
  }
  EXPECT_EQ(first.verdict(), second.verdict());
  for (const auto& point : points) EXPECT_LE(points.count(point), 4U);  // the start, with warm-up
}

}  // namespace
}  // namespace khorus::protocol
