// Parker: where one thread sleeps until another gives it a token.
//
// A thin layer over the Linux futex, because the sleeper lives on the stack of the thread that
// waits: give() is called under the lock that guards the list the sleeper is in, and unpark() after
// that lock is free again. The sleeper may have gone by then; unpark() never touches its memory, it
// only hands an address to the kernel.
//
// Thread rule: park() and its like, has_token() by the one thread that owns it; give() and unpark()
// by any.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace khorus::runtime {

class Parker {
 public:
  using Address = const void*;

  Parker() = default;
  Parker(const Parker&) = delete;
  Parker& operator=(const Parker&) = delete;

  // Sleeps until a token is there, and takes it.
  void park() noexcept;
  // The same, but false when there was no token until `deadline`.
  bool park_until(std::chrono::steady_clock::time_point deadline) noexcept;
  // The same as park(), but false when a signal handler ran on this thread before there was a
  // token.
  [[nodiscard]] bool park_or_signal() noexcept;
  // Whether park() would return at once.
  bool has_token() const noexcept { return state_.load(std::memory_order_acquire) == kToken; }
  // Leaves a token. Returns what unpark() needs, or null when nobody sleeps yet.
  Address give() noexcept {
    return state_.exchange(kToken, std::memory_order_acq_rel) == kAsleep ? &state_ : nullptr;
  }
  static void unpark(Address address) noexcept;

 private:
  static constexpr uint32_t kEmpty = 0, kToken = 1, kAsleep = 2;
  std::atomic<uint32_t> state_{kEmpty};
};

}  // namespace khorus::runtime
