// DeviceClock against a driver whose events come when the test says.
#include "backends/nccl/device_clock.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace khorus::backends::nccl {
namespace {

constexpr int64_t kMicrosecond = 1000;
constexpr int64_t kSecond = 1'000'000'000;

// An event is when it came, in nanoseconds of the device's clock.
CUevent at(int64_t when) { return reinterpret_cast<CUevent>(when); }

Driver driver() {
  Driver made;
  made.event_elapsed_time = [](float* milliseconds, CUevent from, CUevent to) {
    const auto nanoseconds = reinterpret_cast<int64_t>(to) - reinterpret_cast<int64_t>(from);
    *milliseconds = static_cast<float>(static_cast<double>(nanoseconds) / 1e6);
    return CUDA_SUCCESS;
  };
  return made;
}

TEST(DeviceClock, TheFirstEventIsWhereTheHostSawIt) {
  const Driver fake = driver();
  DeviceClock clock(fake);
  const auto span = clock.span(at(kSecond), at(kSecond + 300 * kMicrosecond), 7 * kSecond);
  ASSERT_TRUE(span);
  EXPECT_EQ(span->end, 7 * kSecond);
  EXPECT_EQ(span->begin, 7 * kSecond - 300 * kMicrosecond);
}

// The host looks late, by more or less; one quick look puts everything after it right.
TEST(DeviceClock, LateLooksAreMadeGoodByQuickOnes) {
  const Driver fake = driver();
  DeviceClock clock(fake);
  constexpr int64_t kOffset = 100 * kSecond;  // of the host's clock
  const int64_t lateness[] = {900, 400, 2, 700, 1500, 60};
  int64_t bound = 900;
  for (int64_t i = 0; i < 6; ++i) {
    const int64_t end = kSecond + i * 10'000 * kMicrosecond;
    const auto span = clock.span(at(end - 200 * kMicrosecond), at(end),
                                 end + kOffset + lateness[i] * kMicrosecond);
    ASSERT_TRUE(span);
    bound = std::min(bound, lateness[i]);
    EXPECT_NEAR(static_cast<double>(span->end - end - kOffset) / kMicrosecond,
                static_cast<double>(bound), 0.1);
    EXPECT_NEAR(static_cast<double>(span->end - span->begin) / kMicrosecond, 200, 0.1);
  }
}

// Two clocks of which one gains 20 microseconds in a second, either of them.
TEST(DeviceClock, DriftIsFollowed) {
  for (const double drift : {20e-6, -20e-6}) {
    const Driver fake = driver();
    DeviceClock clock(fake);
    for (int64_t i = 1; i <= 6000; ++i) {
      const int64_t end = i * kSecond / 10;
      const auto host = static_cast<int64_t>(static_cast<double>(end) * (1 + drift));
      const auto span = clock.span(at(end - kMicrosecond), at(end), host + 5 * kMicrosecond);
      ASSERT_TRUE(span);
      // What the clocks drift apart within two references, and what a float can tell.
      EXPECT_LT(std::abs(span->end - host), 350 * kMicrosecond) << i << " " << drift;
    }
  }
}

TEST(DeviceClock, ADriverThatDoesNotKnowIsNoError) {
  Driver fake = driver();
  fake.event_elapsed_time = [](float*, CUevent, CUevent) { return CUDA_ERROR_NOT_READY; };
  DeviceClock clock(fake);
  EXPECT_FALSE(clock.span(at(1), at(2), 3));
  EXPECT_EQ(clock.reference(), nullptr);
}

}  // namespace
}  // namespace khorus::backends::nccl
