// See lane.h.
#include "core/runtime/lane.h"

#include <pthread.h>
#include <unistd.h>

#include <utility>

#include "core/base/assert.h"

namespace khorus::runtime {

Lane::Lane(std::shared_ptr<DriverSeat> seat) : owner_pid_(getpid()), seat_(std::move(seat)) {}

Lane::~Lane() { KHORUS_ASSERT(!executor_thread_.joinable(), "a lane was destroyed before stop()"); }

void Lane::start(RunJob run) {
  run_ = std::move(run);
  executor_thread_ = std::thread([this] { executor_loop(); });
  pthread_setname_np(executor_thread_.native_handle(), "khorus-exec");
}

bool Lane::stop(std::chrono::steady_clock::time_point deadline) {
  Parker::Address sleeper = nullptr;
  {
    Lock lock(mutex_);
    if (!role_freed_.wait_until(lock, deadline, [this] { return !role_held_; })) return false;
    stopping_ = true;
    sleeper = executor_.parker.give();
  }
  Parker::unpark(sleeper);
  if (executor_thread_.joinable()) executor_thread_.join();
  run_ = nullptr;
  return true;
}

void Lane::push(std::vector<Job> jobs) {
  Parker::Address sleeper = nullptr;
  std::optional<Status> failure;
  {
    const Lock lock(mutex_);
    failure = failure_;
    if (!failure.has_value()) {
      for (Job& job : jobs) queue_.push_back(std::move(job));
      if (!role_held_ && !broken_ && !queue_.empty()) sleeper = give_role();
    }
  }
  Parker::unpark(sleeper);
  if (failure.has_value()) finish_jobs(jobs, *failure);
}

void Lane::fail(const Status& status) {
  std::vector<Job> jobs;
  {
    const Lock lock(mutex_);
    if (failure_.has_value()) return;
    failure_ = status;
    broken_ = true;
    jobs = std::exchange(failed_jobs_, {});
    for (Job& job : queue_) jobs.push_back(std::move(job));
    queue_.clear();
  }
  finish_jobs(jobs, status);
}

void Lane::executor_loop() {
  while (true) {
    Parker::Address sleeper = nullptr;
    {
      Lock lock(mutex_);
      if (executor_.has_role) {
        executor_.has_role = false;
        run_jobs(lock, nullptr);
        sleeper = pass_role_on();
      } else if (stopping_) {
        return;
      }
    }
    Parker::unpark(sleeper);
    executor_.parker.park();
  }
}

Status Lane::wait_for(WorkState& work, bool* signalled) {
  if (getpid() != owner_pid_) {
    return Status(StatusCode::kUnavailable,
                  "\"" + work.name() + "\" was submitted before a fork and belongs to process " +
                      std::to_string(owner_pid_) + "; wait for it there, not in the forked child " +
                      std::to_string(getpid()));
  }
  LaneWaiter self;
  bool drives = seat_ != nullptr;
  Parker::Address sleeper = nullptr;
  {
    Lock lock(mutex_);
    bool has_role = false;
    while (work.phase() != WorkState::Phase::kReleased) {
      if (has_role) {
        run_jobs(lock, &work);
        if (work.phase() == WorkState::Phase::kReleased) break;
        const Parker::Address next = pass_role_on();
        KHORUS_ASSERT(next == nullptr, "the runner of a lane stopped with jobs left");
        has_role = false;
        if (work.phase() == WorkState::Phase::kReleased) break;
      }
      self.may_run = drives || signalled == nullptr;
      link(self, work);
      lock.unlock();
      bool interrupted = false;
      if (drives) {
        const bool in_vain = seat_->drive_until_token(self.parker);
        interrupted = in_vain && signalled != nullptr;  // a signal may have come meanwhile
      } else if (signalled != nullptr) {
        interrupted = !self.parker.park_or_signal();
      } else {
        self.parker.park();
      }
      lock.lock();
      unlink(self, work);
      if (std::exchange(drives, false) && self.parker.has_token()) self.parker.park();
      has_role = std::exchange(self.has_role, false);
      if (interrupted && work.phase() != WorkState::Phase::kReleased) {
        *signalled = true;
        break;
      }
    }
    if (has_role) sleeper = pass_role_on();
  }
  Parker::unpark(sleeper);
  return Status();
}

void Lane::run_jobs(Lock& lock, const WorkState* until) {
  while (!queue_.empty() && !broken_) {
    if (until != nullptr && until->phase() == WorkState::Phase::kReleased) return;
    Job job = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    bool ok = run_(job);
    std::vector<Job> lost;
    lock.lock();
    if (ok) continue;
    broken_ = true;
    if (!failure_.has_value()) {
      failed_jobs_.push_back(std::move(job));
      continue;
    }
    const Status status = *failure_;
    lock.unlock();
    finish_jobs(std::span(&job, 1), status);
    lock.lock();
  }
}

Parker::Address Lane::pass_role_on() {
  if (!queue_.empty() && !broken_) return give_role();
  role_held_ = false;
  role_freed_.notify_all();
  return nullptr;
}

Parker::Address Lane::give_role() {
  role_held_ = true;
  LaneWaiter* chosen = waiters_ != nullptr ? waiters_ : &executor_;
  if (waiters_ != nullptr) {
    // Best somebody who waits for the very job that is next.
    for (const WorkStatePtr& work : queue_.front().works) {
      LaneWaiter* waiter = work->waiters_;
      while (waiter != nullptr && !waiter->may_run) waiter = waiter->next_of_work;
      if (waiter == nullptr) continue;
      chosen = waiter;
      break;
    }
  }
  chosen->has_role = true;
  return chosen->parker.give();
}

void Lane::finish_jobs(std::span<Job> jobs, const Status& status) {
  std::vector<Finished> finished;
  for (const Job& job : jobs) {
    for (const WorkStatePtr& work : job.works) finished.push_back({work.get(), status});
  }
  finish(finished);
}

void Lane::finish(std::span<const Finished> finished) {
  if (finished.empty()) return;
  finished_.fetch_add(finished.size(), std::memory_order_relaxed);
  struct WithCallbacks {
    WorkState* work;
    std::vector<std::function<void(const Status&)>> callbacks;
  };
  std::vector<WithCallbacks> with_callbacks;
  std::vector<Parker::Address> sleepers;
  std::vector<std::shared_ptr<void>> owners;  // destroyed without the lock
  owners.reserve(finished.size());
  {
    const Lock lock(mutex_);
    for (const Finished& item : finished) {
      WorkState& work = *item.work;
      KHORUS_ASSERT(work.phase() == WorkState::Phase::kPending, "an operation ended twice");
      work.status_ = item.status;
      owners.push_back(std::move(work.operation_.input.owner));
      if (work.callbacks_.empty()) {
        release(work, &sleepers);
        continue;
      }
      with_callbacks.push_back({&work, std::exchange(work.callbacks_, {})});
      work.finisher_.store(std::this_thread::get_id());
      work.phase_.store(WorkState::Phase::kOver, std::memory_order_release);
    }
  }
  for (const Parker::Address sleeper : sleepers) Parker::unpark(sleeper);
  if (with_callbacks.empty()) return;
  sleepers.clear();
  for (const WithCallbacks& item : with_callbacks) {
    for (const auto& callback : item.callbacks) callback(item.work->status_);
  }
  {
    const Lock lock(mutex_);
    for (const WithCallbacks& item : with_callbacks) release(*item.work, &sleepers);
  }
  for (const Parker::Address sleeper : sleepers) Parker::unpark(sleeper);
}

bool Lane::add_callback(WorkState& work, std::function<void(const Status&)>& callback) {
  const Lock lock(mutex_);
  if (work.phase() != WorkState::Phase::kPending) return false;
  work.callbacks_.push_back(std::move(callback));
  return true;
}

void Lane::release(WorkState& work, std::vector<Parker::Address>* sleepers) {
  for (LaneWaiter* waiter = work.waiters_; waiter != nullptr; waiter = waiter->next_of_work) {
    const Parker::Address sleeper = waiter->parker.give();
    if (sleeper != nullptr) sleepers->push_back(sleeper);
  }
  work.phase_.store(WorkState::Phase::kReleased, std::memory_order_release);
}

void Lane::link(LaneWaiter& waiter, WorkState& work) {
  waiter.next_of_work = work.waiters_;
  work.waiters_ = &waiter;
  if (!waiter.may_run) return;
  waiter.previous = nullptr;
  waiter.next = waiters_;
  if (waiters_ != nullptr) waiters_->previous = &waiter;
  waiters_ = &waiter;
}

void Lane::unlink(LaneWaiter& waiter, WorkState& work) {
  for (LaneWaiter** at = &work.waiters_; *at != nullptr; at = &(*at)->next_of_work) {
    if (*at != &waiter) continue;
    *at = waiter.next_of_work;
    break;
  }
  if (!waiter.may_run) return;
  if (waiter.previous != nullptr) waiter.previous->next = waiter.next;
  if (waiter.next != nullptr) waiter.next->previous = waiter.previous;
  if (waiters_ == &waiter) waiters_ = waiter.next;
}

}  // namespace khorus::runtime
