// See process_group.h.
#include "core/runtime/process_group.h"

namespace khorus::runtime {

Status ProcessGroup::connect(DataPlane::Options plane, CollectiveRunner::Options runner) {
  Result<std::unique_ptr<DataPlane>> opened = DataPlane::open(std::move(plane));
  if (!opened.ok()) return opened.status();
  {
    const std::lock_guard lock(mutex_);
    plane_ = std::move(*opened);
    if (abort_reason_.has_value()) plane_->abort(*abort_reason_);
  }
  if (Status status = plane_->connect(); !status.ok()) return status;
  runner.comm = plane_->comm();
  runner_ = std::make_unique<CollectiveRunner>(std::move(runner));
  connected_.store(true, std::memory_order_release);
  return Status();
}

void ProcessGroup::abort(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (!abort_reason_.has_value()) abort_reason_ = reason;
  if (plane_ != nullptr) plane_->abort(reason);
  device_.abort(reason);
}

bool ProcessGroup::stop(Clock::time_point deadline) {
  if (!device_.stop(deadline) || !lane_->stop(deadline)) return false;
  if (plane_ != nullptr) plane_->disconnect();
  return true;
}

ProcessGroupPtr ProcessGroups::add(ProcessSetId id, std::vector<int> ranks) {
  auto group = std::make_shared<ProcessGroup>(id, std::move(ranks), seat_);
  const std::lock_guard lock(mutex_);
  if (abort_reason_.has_value()) group->abort(*abort_reason_);
  groups_[id] = group;
  return group;
}

ProcessGroupPtr ProcessGroups::find(ProcessSetId id) const {
  const std::lock_guard lock(mutex_);
  const auto it = groups_.find(id);
  return it == groups_.end() ? nullptr : it->second;
}

ProcessGroupPtr ProcessGroups::take(ProcessSetId id) {
  const std::lock_guard lock(mutex_);
  const auto it = groups_.find(id);
  if (it == groups_.end()) return nullptr;
  ProcessGroupPtr group = std::move(it->second);
  groups_.erase(it);
  return group;
}

std::vector<ProcessGroupPtr> ProcessGroups::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<ProcessGroupPtr> groups;
  for (const auto& [id, group] : groups_) groups.push_back(group);
  return groups;
}

void ProcessGroups::abort(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (!abort_reason_.has_value()) abort_reason_ = reason;
  }
  for (const ProcessGroupPtr& group : all()) group->abort(reason);
}

void ProcessGroups::fail(const Status& status) {
  device_lane_.fail(status);
  for (const ProcessGroupPtr& group : all()) {
    group->device().fail(status);
    group->lane()->fail(status);
  }
}

bool ProcessGroups::stop(Clock::time_point deadline) {
  if (!device_lane_.stop(deadline)) return false;  // it may be using any of them
  bool all_stopped = true;
  for (const ProcessGroupPtr& group : all()) all_stopped &= group->stop(deadline);
  return all_stopped;
}

}  // namespace khorus::runtime
