// What the tests of shared memory between processes have in common: sums, bounds, the fixture.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/conformance/plugin.h"
#include "tests/conformance/shm_ranks.h"

namespace khorus::conformance {

using Clock = std::chrono::steady_clock;

// Within this a survivor ends, once the cause is there to be seen. The machine may be busy.
inline constexpr std::chrono::milliseconds kBound{5000};
inline constexpr uint32_t kStopTimeoutMs =
    1000;  // a busy machine must not seem to be a stopped rank

inline int code_of(StatusCode code) { return static_cast<int>(code); }

inline constexpr size_t kLarge = 400003;

// Of kLarge elements at `data`.
inline Status sum_at(Member& member, int32_t* data) {
  std::fill_n(data, kLarge, member.rank() + 1);
  const Status status = member.allreduce({DataType::kInt32, ReduceOp::kSum, kLarge}, data, data);
  const int32_t expected = member.size() * (member.size() + 1) / 2;
  if (status.ok()) {
    EXPECT_EQ(std::count(data, data + kLarge, expected), static_cast<std::ptrdiff_t>(kLarge));
  }
  return status;
}

inline Status large_sum(Member& member) {
  std::vector<int32_t> data(kLarge);
  return sum_at(member, data.data());
}

// The same in memory that the others read; several times, because at first they do not have it.
inline Status sum_in_an_arena(Member& member, int times) {
  const std::shared_ptr<std::byte> arena = member.allocate(kLarge * sizeof(int32_t));
  Status status;
  for (int i = 0; i < times && status.ok(); ++i) {
    status = sum_at(member, reinterpret_cast<int32_t*>(arena.get()));
  }
  return status;
}

class Shm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (find_backend("shm") == nullptr) GTEST_SKIP() << "the shm backend was not built";
  }
};

}  // namespace khorus::conformance
