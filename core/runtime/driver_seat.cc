// See driver_seat.h.
#include "core/runtime/driver_seat.h"

#include <algorithm>
#include <thread>

namespace khorus::runtime {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMostSkipped = 31;

int64_t now_ns() { return Clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

}  // namespace

bool DriverSeat::wanted() noexcept {
  if (!waited_.load(std::memory_order_relaxed)) return false;
  waited_.store(false, std::memory_order_relaxed);
  if (loans_to_skip_ == 0) return true;
  --loans_to_skip_;
  return false;
}

void DriverSeat::lend() noexcept {
  const uint32_t before = successes_.load(std::memory_order_relaxed);
  if (thread_parker_.has_token()) thread_parker_.park();  // a call that came too late
  put_back();
  for (bool called = false;;) {
    const Clock::time_point due(
        std::chrono::nanoseconds(emptied_ns_.load(std::memory_order_relaxed)) + times_.loan);
    const Clock::time_point now = Clock::now();
    if (called || now >= due) {
      State empty = State::kEmpty;
      if (state_.compare_exchange_strong(empty, State::kThread, std::memory_order_acquire)) break;
    }
    // Who is inside now puts it back within its patience and a turn.
    called |= thread_parker_.park_until(now >= due ? now + times_.patience : due);
  }
  const bool paid = successes_.load(std::memory_order_relaxed) != before;
  next_skip_ = paid ? 0 : std::min(2 * next_skip_ + 1, kMostSkipped);
  loans_to_skip_ = next_skip_;
}

bool DriverSeat::try_take() noexcept {
  State empty = State::kEmpty;
  return state_.load(std::memory_order_relaxed) == State::kEmpty &&
         state_.compare_exchange_strong(empty, State::kTaken, std::memory_order_acquire);
}

void DriverSeat::put_back() noexcept {
  emptied_ns_.store(now_ns(), std::memory_order_relaxed);
  state_.store(State::kEmpty, std::memory_order_release);
}

void DriverSeat::call_thread() noexcept {
  if (state_.load(std::memory_order_relaxed) == State::kThread) return;
  Parker::unpark(thread_parker_.give());
}

bool DriverSeat::drive_until_token(const Parker& sleeper) {
  if (sleeper.has_token()) return false;
  if (!try_take()) {
    waited_.store(true, std::memory_order_relaxed);
    return false;
  }
  const Clock::time_point deadline = Clock::now() + times_.patience;
  while (turn_() && !sleeper.has_token() && Clock::now() < deadline) {
    // A thread that a peer waits for may be queued behind this one on its core.
    std::this_thread::yield();
  }
  put_back();
  if (sleeper.has_token()) {
    successes_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  call_thread();
  return true;
}

}  // namespace khorus::runtime
