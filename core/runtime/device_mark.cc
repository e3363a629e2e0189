// See device_mark.h.
#include "core/runtime/device_mark.h"

#include <utility>

#include "khorus/device.h"

namespace khorus::runtime {

void DeviceMark::attach(const WorkStatePtr& work) {
  auto mark = std::make_shared<DeviceMark>();
  work->set_device_mark(mark);
  work->on_done([mark](const Status& status) { mark->over(status); });
}

void DeviceMark::launched(std::shared_ptr<DataPlane> plane, uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  if (over_.has_value()) return;
  plane_ = std::move(plane);
  sequence_ = sequence;
  changed_.notify_all();
}

void DeviceMark::over(const Status& status) {
  std::shared_ptr<DataPlane> unneeded;  // is not destroyed under the lock
  const std::lock_guard lock(mutex_);
  over_ = status;
  unneeded = std::exchange(plane_, nullptr);
  changed_.notify_all();
}

Status DeviceMark::order(void* stream) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return plane_ != nullptr || over_.has_value(); });
  if (over_.has_value()) return *over_;  // complete, and the host has seen it
  const std::shared_ptr<DataPlane> plane = plane_;
  const uint64_t sequence = sequence_;
  lock.unlock();
  if (plane->order(sequence, stream).ok()) return Status();
  // The communicator is broken, so the work ends, and with the reason that all waiters get.
  lock.lock();
  changed_.wait(lock, [this] { return over_.has_value(); });
  return *over_;
}

}  // namespace khorus::runtime

namespace khorus {

Status wait_on_stream(Work& work, void* stream) {
  const auto* const state = dynamic_cast<const runtime::WorkState*>(&work);
  const auto mark = state == nullptr ? nullptr : state->device_mark();
  return mark == nullptr ? work.wait() : mark->order(stream);
}

}  // namespace khorus
