// See outcome.h.
#include "tests/sim/checkers/outcome.h"

namespace khorus::sim {

void Outcome::begin(const Scenario& scenario, const Workload& workload) {
  scenario_ = scenario;
  workload_ = &workload;
  planned_.resize(static_cast<size_t>(scenario.ranks));
}

void Outcome::submitted(int rank, const Origin& origin,
                        std::span<const protocol::Submission> submissions, TimeUs) {
  StatusCode code = StatusCode::kOk;
  if (origin.joined) {
    code = StatusCode::kInvalidArgument;
  } else if (origin.duplicate) {
    code = StatusCode::kDuplicateName;
  } else {
    const auto [it, is_new] = plan_.try_emplace({origin.step, origin.unit});
    if (is_new) it->second = workload_->planned(origin.step, origin.unit);
    code = it->second;
  }
  for (const protocol::Submission& submission : submissions) {
    const wire::Request& request = submission.request;
    planned_[static_cast<size_t>(rank)].emplace(submission.ticket,
                                                Planned{origin, code, request.process_set});
    if (request.kind != OpKind::kRemoveProcessSet || origin.duplicate) continue;
    removed_by_[static_cast<ProcessSetId>(request.shape.at(0))].insert(rank);
  }
}

void Outcome::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  for (const protocol::Completion& completion : output.completions) {
    check(rank, completion.ticket, completion.status, now);
  }
  for (const protocol::Execution& execution : output.executions) {
    for (uint64_t ticket : execution.tickets) check(rank, ticket, Status(), now);
  }
}

void Outcome::check(int rank, uint64_t ticket, const Status& status, TimeUs now) {
  const auto& planned = planned_[static_cast<size_t>(rank)];
  const auto it = planned.find(ticket);
  if (it == planned.end() || allowed(it->second.code, it->second.origin, status.code())) return;
  if (status.code() == StatusCode::kInvalidArgument && set_may_be_gone(it->second.set)) return;
  fail(at(rank, now) + "step " + std::to_string(it->second.origin.step) + " unit " +
       std::to_string(it->second.origin.unit) + " was planned to end with " +
       std::string(status_code_name(it->second.code)) + " and ended with " + status.to_string());
}

// Once all ranks have asked for it.
bool Outcome::set_may_be_gone(ProcessSetId set) const {
  const auto it = removed_by_.find(set);
  return it != removed_by_.end() && it->second.size() == planned_.size();
}

bool Outcome::allowed(StatusCode planned, const Origin& origin, StatusCode code) const {
  if (code == planned) return true;
  const Faults& faults = scenario_.faults;
  const bool dies = faults.crash_rank || faults.second_crash_rank || faults.cut_rank;
  // A second death can cut off the news of the first: then the data plane may be first to speak.
  const bool unexplained = faults.notice_grace_us == 0 || faults.second_crash_rank;
  const bool breaks = faults.broken_rank || (faults.data_plane_notices && unexplained);
  switch (code) {
    case StatusCode::kShutdown:
      return faults.early_leaver || origin.after_end || scenario_.may_fault();
    case StatusCode::kPeerLost:
      return dies;
    case StatusCode::kAborted:
      return breaks;
    case StatusCode::kTimeout:
      return scenario_.node.stall_shutdown_us > 0;
    case StatusCode::kOk:
    case StatusCode::kMismatch:
      // With missing submissions, one rank's step meets another's.
      return faults.missing && planned != StatusCode::kDuplicateName &&
             planned != StatusCode::kInvalidArgument;
    default:
      return false;
  }
}

}  // namespace khorus::sim
