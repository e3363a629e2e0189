// DriverSeat: which thread drives the coordinator's loop.
//
// As a rule the coordinator thread, asleep in its control channel. A thread that makes one blocking
// call after the other would have to wake it for each, and be woken by it: longer than the rest of
// a small operation. So the coordinator thread, when somebody waits and it has nothing pending,
// lends the seat for a moment. Who waits in that time takes it and drives the loop itself, without
// blocking, so that nobody has to be woken. What arrives while the seat is lent and empty lies for
// that moment at most; then the thread takes it back.
//
// A waiting thread drives for a bounded time, then it calls the thread back and sleeps as usual.
// Loans that end without an operation done make the next ones rarer, down to one in 32: who
// drives in vain keeps others from running where ranks outnumber cores.
//
// Thread rule: who holds the seat may do what the coordinator thread may; wanted(), lend() by that
// thread alone; the rest by any other thread. Outlives the coordinator thread, which has the seat
// when it ends: Works that outlive their engine hold it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>

#include "core/runtime/parker.h"

namespace khorus::runtime {

class DriverSeat {
 public:
  struct Times {
    std::chrono::microseconds loan{200};
    std::chrono::microseconds patience{400};
  };

  explicit DriverSeat(Times times) : times_(times) {}
  DriverSeat() : DriverSeat(Times()) {}

  // By the coordinator thread's owner, before the first lend(). `turn` looks, without blocking, for
  // what came in and acts on it; false: there is nothing to drive any more.
  void set_turn(std::function<bool()> turn) { turn_ = std::move(turn); }

  // Somebody has waited since the last call, and a loan is likely to pay.
  bool wanted() noexcept;
  // Lends the seat; returns with it.
  void lend() noexcept;

  // It is lent, and nobody has taken it.
  bool is_empty() const noexcept { return state_.load(std::memory_order_acquire) == State::kEmpty; }
  // False: somebody else has it.
  bool try_take() noexcept;
  void put_back() noexcept;
  // Ends a loan, if there is one, as soon as the seat is empty.
  void call_thread() noexcept;
  // For a thread that sleeps on `sleeper` if nothing happens: drives, if the seat is empty, until
  // there is a token. True: it has driven, in vain.
  bool drive_until_token(const Parker& sleeper);

 private:
  enum class State : uint8_t { kThread, kEmpty, kTaken };

  const Times times_;
  std::function<bool()> turn_;
  std::atomic<State> state_{State::kThread};
  std::atomic<int64_t> emptied_ns_{0};
  std::atomic<bool> waited_{false};
  std::atomic<uint32_t> successes_{0};
  Parker thread_parker_;

  // Of the coordinator thread.
  int loans_to_skip_ = 0;
  int next_skip_ = 0;
};

}  // namespace khorus::runtime
