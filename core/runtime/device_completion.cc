// See device_completion.h.
#include "core/runtime/device_completion.h"

#include <pthread.h>

#include <utility>

#include "core/base/assert.h"

namespace khorus::runtime {

DeviceCompletion::~DeviceCompletion() {
  KHORUS_ASSERT(!thread_.joinable(), "a completion thread was destroyed before stop()");
}

void DeviceCompletion::push(Flight flight) {
  if (!thread_.joinable()) {
    thread_ = std::thread([this] { loop(); });
    pthread_setname_np(thread_.native_handle(), "khorus-gpu-done");
  }
  const std::lock_guard lock(mutex_);
  flights_.push_back(std::move(flight));
  changed_.notify_all();
}

void DeviceCompletion::fail(const Status& status) {
  const std::lock_guard lock(mutex_);
  if (!failure_.has_value()) failure_ = status;
  changed_.notify_all();
}

bool DeviceCompletion::wait_idle(Clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return changed_.wait_until(lock, deadline, [this] { return flights_.empty(); });
}

bool DeviceCompletion::stop(Clock::time_point deadline) {
  if (!wait_idle(deadline)) return false;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  return true;
}

void DeviceCompletion::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] {
      return stopping_ || (!flights_.empty() && (!broken_ || failure_.has_value()));
    });
    if (flights_.empty()) return;
    lock.unlock();
    const bool is_over = conclude(flights_.front());  // stays there: others only push at the back
    lock.lock();
    if (!is_over) continue;
    Flight over = std::move(flights_.front());
    flights_.pop_front();
    changed_.notify_all();
    lock.unlock();
    over = Flight();  // what it kept alive goes without the lock
    lock.lock();
  }
}

bool DeviceCompletion::conclude(Flight& flight) {
  Status status;
  // The first failure has seen the device come to the end of everything.
  if (!broken_) status = hooks_.finish(flight.launched.sequence);
  if (!broken_ && status.ok()) {
    hooks_.over(flight.job, status);
    return true;
  }
  std::optional<Status> failure;
  {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    failure = failure_;
  }
  if (!failure.has_value()) {
    hooks_.over(flight.job, status);
    return false;
  }
  hooks_.fail(flight.job, *failure);
  return true;
}

}  // namespace khorus::runtime
