// Meeting: where the ranks that take part in operations, threads of one process, meet for one
// operation after another.
//
// Touched by the threads of all its ranks; thread-safe. One operation goes through it like this:
// every rank enter()s with its operation; once all are there each knows everybody's operation and
// works on its part; a rank leave()s when its part is done and is held until all parts are, because
// until then others still use its memory. fail() frees everyone who waits: at once in enter(), and
// in leave() as soon as the others have noticed, which they do between two blocks of memory.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::local {

class Meeting {
 public:
  // `global_ranks`: of those who meet, in the order of their places. For messages.
  explicit Meeting(std::vector<int32_t> global_ranks);
  Meeting(const Meeting&) = delete;
  Meeting& operator=(const Meeting&) = delete;

  // Blocks until every rank has entered with the same operation. Mismatch if they differ; Timeout,
  // naming who is missing, after `timeout`. After an error the rank must not leave().
  // `op` must stay valid until leave() returns.
  Status enter(size_t place, const khorus_op& op, std::chrono::milliseconds timeout);

  // Everybody's operation, by place. REQUIRES: between enter() and leave().
  const std::vector<const khorus_op*>& ops() const { return ops_; }
  // To be looked at between blocks of work: true means stop and leave().
  bool failed() const { return failed_.load(std::memory_order_relaxed); }

  // Blocks until every rank's part is done.
  Status leave();

  // The first failure is the one that every rank gets, from now on.
  void fail(const Status& status);

 private:
  Status compare_ops() const;
  // What the ranks at two places do not agree on, in words that follow "rank 3 ..."; else "".
  std::string disagreement(size_t one, size_t other) const;
  std::string missing_ranks() const;
  std::string name_of(size_t place) const;
  void fail_locked(const Status& status);

  const std::vector<int32_t> global_ranks_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<const khorus_op*> ops_;  // null: has not entered; constant while an operation runs
  size_t entered_ = 0;
  size_t working_ = 0;
  uint64_t started_ = 0;  // operations
  uint64_t finished_ = 0;
  Status outcome_;  // of the last finished operation; the same for every rank
  Status failure_;
  std::atomic<bool> failed_{false};
};

}  // namespace khorus::backends::local
