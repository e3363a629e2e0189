// See work_state.h.
#include "core/runtime/work_state.h"

#include <utility>

#include "core/base/assert.h"
#include "core/runtime/device_mark.h"
#include "core/runtime/lane.h"

namespace khorus {

Status wait_all(const std::vector<WorkPtr>& works) {
  Status first;
  for (const WorkPtr& work : works) {
    Status status = work->wait();
    if (first.ok() && !status.ok()) first = std::move(status);
  }
  return first;
}

}  // namespace khorus

namespace khorus::runtime {

WorkState::WorkState(Operation operation, std::shared_ptr<Lane> lane)
    : operation_(std::move(operation)), lane_(std::move(lane)) {}

WorkState::WorkState(std::string name, Status status)
    : phase_(Phase::kReleased), status_(std::move(status)) {
  operation_.name = std::move(name);
}

Status WorkState::wait() { return wait(nullptr); }

bool WorkState::wait_or_signal(Status* status) {
  bool signalled = false;
  Status waited = wait(&signalled);
  if (!signalled) *status = std::move(waited);
  return !signalled;
}

Status WorkState::wait(bool* signalled) {
  if (phase() == Phase::kPending || phase() == Phase::kOver) {
    // In a callback of this very Work: it is over, and this thread is the one that says so.
    const bool in_callback =
        phase() == Phase::kOver && finisher_.load() == std::this_thread::get_id();
    if (!in_callback) {
      const Status waited = lane_->wait_for(*this, signalled);
      if (!waited.ok() || (signalled != nullptr && *signalled)) return waited;
    }
  }
  return status_;
}

bool WorkState::has_result() const {
  return (poll() && status_.ok()) || (device_mark_ != nullptr && device_mark_->was_launched());
}

TensorView WorkState::result() const {
  KHORUS_ASSERT(has_result(), "Work::result() of an operation that is not done and ok");
  return operation_.output;
}

std::vector<int64_t> WorkState::first_extents() const {
  KHORUS_ASSERT(has_result(), "Work::first_extents() of an operation that is not done and ok");
  return extents_;
}

int WorkState::last_joined() const {
  KHORUS_ASSERT(poll() && status_.ok(),
                "Work::last_joined() of an operation that is not done and ok");
  return operation_.kind == OpKind::kJoin ? static_cast<int>(value_) : -1;
}

void WorkState::on_done(std::function<void(const Status&)> callback) {
  if (lane_ != nullptr && lane_->add_callback(*this, callback)) return;
  callback(status_);
}

void WorkState::set_gathered(TensorView result, std::vector<int64_t> extents) {
  operation_.output = std::move(result);
  extents_ = std::move(extents);
}

}  // namespace khorus::runtime
