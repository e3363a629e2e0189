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
  launched_.store(true, std::memory_order_release);
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
  return order_launched(stream, std::move(lock));
}

std::optional<Status> DeviceMark::order_within(void* stream, std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, patience,
                         [this] { return plane_ != nullptr || over_.has_value(); })) {
    return std::nullopt;
  }
  return order_launched(stream, std::move(lock));
}

Status DeviceMark::order_launched(void* stream, std::unique_lock<std::mutex> lock) {
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

namespace {

std::shared_ptr<runtime::DeviceMark> mark_of(const Work& work) {
  const auto* const state = dynamic_cast<const runtime::WorkState*>(&work);
  return state == nullptr ? nullptr : state->device_mark();
}

}  // namespace

Status wait_on_stream(Work& work, void* stream) {
  const auto mark = mark_of(work);
  return mark == nullptr ? work.wait() : mark->order(stream);
}

bool wait_on_stream_for(Work& work, void* stream, std::chrono::milliseconds patience,
                        Status* status) {
  const auto mark = mark_of(work);
  if (mark == nullptr) return work.wait_or_signal(status);
  const std::optional<Status> ordered = mark->order_within(stream, patience);
  if (ordered.has_value()) *status = *ordered;
  return ordered.has_value();
}

}  // namespace khorus
