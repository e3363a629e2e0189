// Lane: the queue of agreed operations of one communicator, run strictly in order, one at a time.
//
// Who runs them is a role, not a thread. The role is free, or held by exactly one thread: the
// lane's own executor, or a user's thread that is blocked in Work::wait() anyway and would
// otherwise have to be woken after the executor (one thread switch less for a blocking call). The
// role is handed over under the lock, never looked for:
//   - whoever adds to an empty lane gives the free role to a waiter, or else to the executor;
//   - who holds it runs jobs until there are none, or until the Work it waits for is done, and then
//     hands the role on if jobs are left.
// Hence the invariant that no wakeup is lost: a free role means that there is nothing to run.
//
// The lane's lock also guards the progress of its Works and the threads waiting for each, so that a
// completion wakes exactly those. Shared by the engine and its Works: a Work outlives the engine.
//
// Thread rule: any thread; push(), fail() by who drives the coordinator; start() and stop() once.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "core/runtime/driver_seat.h"
#include "core/runtime/parker.h"
#include "core/runtime/work_state.h"
#include "core/wire/message.h"

namespace khorus::runtime {

// One agreed operation: a response and this rank's works, by tensor of the response. Without works
// it is one of others that this rank is to meet for (protocol::Execution::meets_only).
struct Job {
  // Increases from job to job of a lane, and is equal on all ranks; the last 8 bits are the
  // runner's.
  uint64_t sequence = 0;
  wire::Response response;
  std::vector<WorkStatePtr> works;
};

// A thread that sleeps until its work is done or it gets the role. On that thread's stack.
struct LaneWaiter {
  Parker parker;
  bool has_role = false;
  // Runs jobs while it waits. Not a thread that must see to signals and sleeps: a job can take
  // long. While it drives (driver_seat.h) it runs the job that it waits for.
  bool may_run = true;
  LaneWaiter* next_of_work = nullptr;
  LaneWaiter* next = nullptr;  // of all waiters of the lane
  LaneWaiter* previous = nullptr;
};

class Lane {
 public:
  // Runs a job and finishes its works; false when the data plane failed: then the lane keeps the
  // job until fail().
  using RunJob = std::function<bool(Job&)>;
  struct Finished {
    WorkState* work;
    Status status;
  };

  // `seat`: that a waiting thread may drive; null: none.
  explicit Lane(std::shared_ptr<DriverSeat> seat = nullptr);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void start(RunJob run);
  void push(std::vector<Job> jobs);
  // Nothing is run any more: every job that is here, or comes later, is done with `status`. The one
  // that is running now is when it returns.
  void fail(const Status& status);
  // REQUIRES: no push() any more. Waits until nothing runs and ends the executor; false when
  // `deadline` came first (a backend did not return): then the lane must be left alone for ever.
  bool stop(std::chrono::steady_clock::time_point deadline);

  // REQUIRES: each work is pending; the caller keeps it alive.
  void finish(std::span<const Finished> finished);

  uint64_t finished_count() const noexcept { return finished_.load(std::memory_order_relaxed); }

  // For WorkState. Unavailable in a forked child, else ok. With `signalled` a signal handler that
  // runs on this thread ends the wait, and is noted there, perhaps also when there was none.
  Status wait_for(WorkState& work, bool* signalled);
  // False when the work is over: then the caller runs the callback.
  bool add_callback(WorkState& work, std::function<void(const Status&)>& callback);

 private:
  using Lock = std::unique_lock<std::mutex>;

  void executor_loop();
  void run_jobs(Lock& lock, const WorkState* until);
  // Gives the role, which the caller holds, to whoever should run next, or frees it.
  Parker::Address pass_role_on();
  Parker::Address give_role();
  void finish_jobs(std::span<Job> jobs, const Status& status);
  void release(WorkState& work, std::vector<Parker::Address>* sleepers);
  void link(LaneWaiter& waiter, WorkState& work);
  void unlink(LaneWaiter& waiter, WorkState& work);

  const pid_t owner_pid_;
  const std::shared_ptr<DriverSeat> seat_;
  std::atomic<uint64_t> finished_{0};
  RunJob run_;
  std::thread executor_thread_;

  std::mutex mutex_;  // guards what follows, and the progress of the works
  std::deque<Job> queue_;
  std::vector<Job> failed_jobs_;   // wait for fail()
  std::optional<Status> failure_;  // set by fail()
  bool broken_ = false;            // nothing is run any more
  bool role_held_ = false;
  bool stopping_ = false;
  LaneWaiter executor_;
  LaneWaiter* waiters_ = nullptr;
  std::condition_variable role_freed_;
};

}  // namespace khorus::runtime
