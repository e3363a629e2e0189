// See device_group.h.
#include "core/runtime/device_group.h"

#include <utility>

namespace khorus::runtime {

Status DeviceGroup::open(DataPlane::Options plane) {
  Result<std::unique_ptr<DataPlane>> opened = DataPlane::open(std::move(plane));
  if (!opened.ok()) return opened.status();
  const std::lock_guard lock(mutex_);
  plane_ = std::move(*opened);
  if (abort_reason_.has_value()) plane_->abort(*abort_reason_);
  return Status();
}

Status DeviceGroup::connect(DeviceRunner::Options runner, Over over, Fail fail) {
  if (Status status = plane_->connect(); !status.ok()) return status;
  runner.plane = plane_;
  runner_ = std::make_unique<DeviceRunner>(std::move(runner));
  completion_ = std::make_unique<DeviceCompletion>(
      DeviceCompletion::Hooks{[this](uint64_t sequence) { return plane_->finish(sequence); },
                              std::move(over), std::move(fail)});
  connected_.store(true, std::memory_order_release);
  return Status();
}

Status DeviceGroup::launch(Job& job) {
  DeviceCompletion::Flight flight;
  Status status = runner_->launch(job, &flight.launched);
  if (!status.ok()) return status;
  flight.job = std::move(job);
  completion_->push(std::move(flight));
  return status;
}

void DeviceGroup::abort(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (!abort_reason_.has_value()) abort_reason_ = reason;
  if (plane_ != nullptr) plane_->abort(reason);
}

void DeviceGroup::fail(const Status& status) {
  if (connected()) completion_->fail(status);
}

bool DeviceGroup::wait_idle(Clock::time_point deadline) {
  return !connected() || completion_->wait_idle(deadline);
}

bool DeviceGroup::stop(Clock::time_point deadline) {
  if (connected() && !completion_->stop(deadline)) return false;
  if (plane_ != nullptr) plane_->disconnect();
  return true;
}

}  // namespace khorus::runtime
