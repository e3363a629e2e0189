// See parker.h; futex(2).
#include "core/runtime/parker.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/timespec.h"

namespace khorus::runtime {

void Parker::park() noexcept {
  uint32_t seen = kEmpty;
  if (!state_.compare_exchange_strong(seen, kAsleep, std::memory_order_acquire)) {
    state_.store(kEmpty, std::memory_order_relaxed);  // the token was there already
    return;
  }
  while (state_.load(std::memory_order_acquire) != kToken) {
    // Returns at once when the state is no longer kAsleep, also for signals; hence the loop.
    syscall(SYS_futex, &state_, FUTEX_WAIT_PRIVATE, kAsleep, nullptr, nullptr, 0);
  }
  state_.store(kEmpty, std::memory_order_relaxed);
}

bool Parker::park_until(std::chrono::steady_clock::time_point deadline) noexcept {
  const timespec until = base::as_timespec(deadline);
  uint32_t seen = kEmpty;
  if (!state_.compare_exchange_strong(seen, kAsleep, std::memory_order_acquire)) {
    state_.store(kEmpty, std::memory_order_relaxed);
    return true;
  }
  while (state_.load(std::memory_order_acquire) != kToken) {
    // Of the wait operations only this one takes a point in time, of CLOCK_MONOTONIC.
    const long result = syscall(SYS_futex, &state_, FUTEX_WAIT_BITSET_PRIVATE, kAsleep, &until,
                                nullptr, FUTEX_BITSET_MATCH_ANY);
    if (result == 0 || errno != ETIMEDOUT) continue;
    seen = kAsleep;
    // A token that came just now is taken.
    if (state_.compare_exchange_strong(seen, kEmpty, std::memory_order_acquire)) return false;
  }
  state_.store(kEmpty, std::memory_order_relaxed);
  return true;
}

bool Parker::park_or_signal() noexcept {
  uint32_t seen = kEmpty;
  if (!state_.compare_exchange_strong(seen, kAsleep, std::memory_order_acquire)) {
    state_.store(kEmpty, std::memory_order_relaxed);
    return true;
  }
  while (state_.load(std::memory_order_acquire) != kToken) {
    const long result =
        syscall(SYS_futex, &state_, FUTEX_WAIT_PRIVATE, kAsleep, nullptr, nullptr, 0);
    if (result == 0 || errno != EINTR) continue;
    seen = kAsleep;
    // A token that came just now is taken.
    if (state_.compare_exchange_strong(seen, kEmpty, std::memory_order_acquire)) return false;
  }
  state_.store(kEmpty, std::memory_order_relaxed);
  return true;
}

void Parker::unpark(Address address) noexcept {
  if (address != nullptr) {
    syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
}

}  // namespace khorus::runtime
