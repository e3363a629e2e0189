// Progress: what every wait of a communicator looks at: how far its device is, and whether somebody
// has aborted.
//
// The device counts the operations itself, by a host function on a stream of its own: so nobody
// asks it again and again, and the operations' own stream never waits for the host. What has to be
// asked for (NCCL's errors, its ncclInProgress) is asked for in pauses, which an abort ends at
// once.
//
// Thread rule: every method from any thread. Shared with the host functions that are under way.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

#include "khorus/status.h"

namespace khorus::backends::nccl {

class Progress {
 public:
  // Operations are counted from 1, in the order in which they were put into the stream.
  void done(uint64_t number) {
    const std::scoped_lock lock(mutex_);
    done_ = number;
    changed_.notify_all();
  }
  // Each ends every wait, now and later; the first of each kind stays. What a caller asked for
  // (abort) goes before what was seen to fail.
  void abort(const std::string& reason) {
    const std::scoped_lock lock(mutex_);
    if (aborted_.ok()) aborted_ = Status(StatusCode::kAborted, reason);
    changed_.notify_all();
  }
  void fail(const Status& failure) {
    const std::scoped_lock lock(mutex_);
    if (failed_.ok()) failed_ = failure;
    changed_.notify_all();
  }
  // Ok, or why nothing goes on.
  Status end() const {
    const std::scoped_lock lock(mutex_);
    return aborted_.ok() ? failed_ : aborted_;
  }

  // Until operation `number` is done (true), something ends it or `limit` has passed.
  bool wait(uint64_t number, std::chrono::nanoseconds limit) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, limit,
                      [&] { return done_ >= number || !aborted_.ok() || !failed_.ok(); });
    return done_ >= number;
  }
  // Until something ends it or `limit` has passed.
  void pause(std::chrono::nanoseconds limit) { wait(~uint64_t{0}, limit); }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t done_ = 0;
  Status aborted_;
  Status failed_;
};

}  // namespace khorus::backends::nccl
