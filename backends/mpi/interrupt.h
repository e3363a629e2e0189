// Interrupt: what abort() raises and every wait of a communicator looks at.
//
// Thread rule: every method from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "khorus/status.h"

namespace khorus::backends::mpi {

class Interrupt {
 public:
  // Ends every wait, now and later. The first reason stays.
  void raise(const std::string& reason);
  bool raised() const noexcept { return raised_.load(std::memory_order_acquire); }
  // Ok, or Aborted with the reason.
  Status status() const;

  // Returns when raised, and after `limit` at the latest.
  void pause(std::chrono::nanoseconds limit);

  // Runs `call`, which blocks inside MPI and cannot be interrupted, on a thread of its own and
  // waits for its end. When raised before that, returns false and leaves the thread alone: it
  // ends when `call` does, or with the process. So `call` owns everything it uses.
  static bool run(const std::shared_ptr<Interrupt>& interrupt, std::function<void()> call);

 private:
  std::atomic<bool> raised_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Status reason_;
};

}  // namespace khorus::backends::mpi
