// See device_lane.h.
#include "core/runtime/device_lane.h"

#include <pthread.h>

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "core/base/assert.h"
#include "core/protocol/tensor_key.h"
#include "core/runtime/process_group.h"

namespace khorus::runtime {

bool is_on_device(const Job& job) noexcept { return protocol::is_on_device(job.response); }

void end_job(const Job& job, const Status& status) {
  std::vector<Lane::Finished> finished;
  finished.reserve(job.works.size());
  for (const WorkStatePtr& work : job.works) finished.push_back({work.get(), status});
  if (!finished.empty()) job.works.front()->lane()->finish(finished);
}

DeviceLane::~DeviceLane() {
  KHORUS_ASSERT(!thread_.joinable(), "a device lane was destroyed before stop()");
}

void DeviceLane::push(GroupPtr group, Job job) {
  if (!thread_.joinable()) {
    thread_ = std::thread([this] { loop(); });
    pthread_setname_np(thread_.native_handle(), "khorus-gpu");
  }
  std::optional<Status> failure;
  {
    const std::lock_guard lock(mutex_);
    failure = failure_;
    if (!failure.has_value()) queue_.push_back({std::move(group), std::move(job)});
    changed_.notify_all();
  }
  if (failure.has_value()) end_job(job, *failure);
}

void DeviceLane::fail(const Status& status) {
  std::deque<Entry> over;
  {
    const std::lock_guard lock(mutex_);
    if (failure_.has_value()) return;
    failure_ = status;
    broken_ = true;
    // What is being launched is the thread's.
    const auto from = queue_.begin() + (launching_ ? 1 : 0);
    std::move(from, queue_.end(), std::back_inserter(over));
    queue_.erase(from, queue_.end());
    changed_.notify_all();
  }
  for (const Entry& entry : over) end_job(entry.job, status);
}

bool DeviceLane::wait_launched(const ProcessGroup& group, Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [&] {
    return std::none_of(queue_.begin(), queue_.end(),
                        [&](const Entry& entry) { return entry.group.get() == &group; });
  });
}

bool DeviceLane::stop(Clock::time_point deadline) {
  {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, deadline, [this] { return !launching_; })) return false;
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  return true;
}

void DeviceLane::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || (!queue_.empty() && !broken_); });
    if (stopping_) return;
    launching_ = true;
    Entry& entry = queue_.front();  // stays there: others only push at the back
    lock.unlock();
    const bool ok = launch_(*entry.group, entry.job);
    lock.lock();
    launching_ = false;
    broken_ |= !ok;
    if (ok || failure_.has_value()) {
      Entry over = std::move(queue_.front());
      queue_.pop_front();
      const std::optional<Status> failure = failure_;
      lock.unlock();
      if (!ok) end_job(over.job, *failure);
      over = Entry();
      lock.lock();
    }
    changed_.notify_all();
  }
}

}  // namespace khorus::runtime
