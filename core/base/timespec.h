// A point in time of steady_clock as the kernel takes it, for calls with an absolute deadline of
// CLOCK_MONOTONIC, which is that clock (futex(2), sem_clockwait(3)).
//
// Thread rule: a pure function.
#pragma once

#include <chrono>
#include <ctime>

namespace khorus::base {

inline timespec as_timespec(std::chrono::steady_clock::time_point at) noexcept {
  const auto since_epoch = at.time_since_epoch();
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since_epoch);
  return {.tv_sec = seconds.count(),
          .tv_nsec = std::chrono::nanoseconds(since_epoch - seconds).count()};
}

}  // namespace khorus::base
