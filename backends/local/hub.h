// Hub: where the ranks of one group, threads of one process, meet for one operation after another.
//
// Touched by the threads of all ranks; thread-safe. One operation goes through it like this: every
// rank enter()s with its operation; once all are there each knows everybody's operation and works
// on its part; a rank leave()s when its part is done and is held until all parts are, because until
// then others still use its memory. fail() frees everyone who waits: at once in enter(), and in
// leave() as soon as the others have noticed, which they do between two blocks of memory.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::local {

class Hub {
 public:
  // `global_ranks`: of the group's members, for messages.
  explicit Hub(std::vector<int32_t> global_ranks);
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  // Blocks until every rank has entered with the same operation. Mismatch if they differ; Timeout,
  // naming who is missing, after `timeout`. After an error the rank must not leave().
  // `op` must stay valid until leave() returns.
  Status enter(int rank, const khorus_op& op, std::chrono::milliseconds timeout);

  // Everybody's operation, by rank. REQUIRES: between enter() and leave().
  const std::vector<const khorus_op*>& ops() const { return ops_; }
  // To be looked at between blocks of work: true means stop and leave().
  bool failed() const { return failed_.load(std::memory_order_relaxed); }

  // Blocks until every rank's part is done.
  Status leave();

  // The first failure is the one that every rank gets, from now on.
  void fail(const Status& status);

 private:
  Status compare_ops() const;
  std::string missing_ranks() const;
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

// How ranks find the hub of their group. Rank 0 publishes it under a random key that the exchange
// carries; the others look the key up. The table is per process, like the hubs in it: a key from
// another process is not found, and a hub whose rank 0 has gone is not either. (A bare pointer
// could do neither: nobody can tell whether what it points at is still there.)
struct HubKey {
  uint64_t words[2];
  bool operator<(const HubKey& other) const;
};
HubKey publish(const std::shared_ptr<Hub>& hub);
std::shared_ptr<Hub> find(const HubKey& key);  // null: not in this process, or gone

}  // namespace khorus::backends::local
