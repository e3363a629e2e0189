// Process sets of an EngineCore; see engine_core.h.
#include <algorithm>
#include <utility>

#include "core/runtime/engine_core.h"
#include "core/runtime/operation_check.h"

namespace khorus::runtime {
namespace {

// Of both calls, one of which at most is under way on a rank: what a rank calls meets what the
// others call next, and is a mismatch if that is something else.
const std::string kSetChange = kInternalPrefix + std::string("process_set");

}  // namespace

Result<std::shared_ptr<WorkState>> EngineCore::negotiate(wire::Request request) {
  WorkState::Operation operation;
  operation.kind = request.kind;
  operation.name = request.name;
  Batch batch;
  protocol::Submission submission;
  submission.ticket = next_ticket();
  submission.request = std::move(request);
  batch.submissions.push_back(std::move(submission));
  auto work = std::make_shared<WorkState>(std::move(operation), lane());
  batch.works.push_back(work);
  if (Status refused = coordinator_->submit(batch); !refused.ok()) return refused;
  if (Status status = work->wait(); !status.ok()) return status;
  return work;
}

Result<ProcessSetId> EngineCore::add_process_set(const std::vector<int>& ranks) {
  if (Status status = check_set_ranks(ranks, options_.place.size); !status.ok()) return status;
  const std::lock_guard change(set_change_mutex_);
  wire::Request request;
  request.kind = OpKind::kAddProcessSet;
  request.name = kSetChange;
  for (const int rank : ranks) request.members.add(rank);
  const auto work = negotiate(std::move(request));
  if (!work.ok()) return work.status();
  const auto id = static_cast<ProcessSetId>((*work)->value());
  {
    const std::lock_guard lock(sets_mutex_);
    sets_[id] = std::make_shared<const std::vector<int>>(ranks);
  }
  observer_.set_group(id, ranks);
  const auto deadline = Clock::now() + milliseconds_of(options_.config.start_timeout_s);
  const ProcessGroupPtr added = groups_.find(id);
  const Status connected = added == nullptr ? Status() : connect(added, deadline);
  if (Status ready = all_are_ready(connected, deadline); !ready.ok()) return ready;
  return id;
}

Status EngineCore::remove_process_set(ProcessSetId id) {
  const std::lock_guard change(set_change_mutex_);
  wire::Request request;
  request.kind = OpKind::kRemoveProcessSet;
  request.name = kSetChange;
  request.shape = {std::max(id, 0)};
  if (const auto work = negotiate(std::move(request)); !work.ok()) return work.status();
  {
    const std::lock_guard lock(sets_mutex_);
    sets_.erase(id);
  }
  const auto deadline = Clock::now() + milliseconds_of(options_.config.shutdown_timeout_s);
  // Still among the others meanwhile, so that a failure of the engine ends what is on the device.
  const ProcessGroupPtr old = groups_.find(id);
  const bool device_idle = old == nullptr || (groups_.device_lane().wait_launched(*old, deadline) &&
                                              old->device().wait_idle(deadline));
  const ProcessGroupPtr gone = groups_.take(id);
  if (gone == nullptr) return Status();
  if (device_idle && gone->stop(deadline)) {
    finished_elsewhere_.fetch_add(gone->lane()->finished_count(), std::memory_order_relaxed);
    return Status();
  }
  // What still runs may not be freed under it.
  static_cast<void>(new ProcessGroupPtr(gone));
  return Status(StatusCode::kTimeout,
                "remove_process_set: what ran on set " + std::to_string(id) +
                    " did not end within " +
                    std::to_string(static_cast<int64_t>(options_.config.shutdown_timeout_s)) +
                    " s; its memory is kept until the process ends");
}

EngineCore::RanksPtr EngineCore::ranks_of(ProcessSetId id) const {
  const std::lock_guard lock(sets_mutex_);
  const auto it = sets_.find(id);
  return it == sets_.end() ? nullptr : it->second;
}

}  // namespace khorus::runtime
