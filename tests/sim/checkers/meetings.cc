// See meetings.h.
#include "tests/sim/checkers/meetings.h"

namespace khorus::sim {

void Meetings::begin(const Scenario& scenario, const Workload&) {
  book_.begin(scenario);
  own_.resize(static_cast<size_t>(scenario.ranks));
}

void Meetings::submitted(int rank, const Origin& origin,
                         std::span<const protocol::Submission> submissions, TimeUs) {
  book_.submitted(rank, origin, submissions);
}

void Meetings::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  book_.learn_sets(rank, output);
  for (const protocol::Execution& execution : output.executions) check(rank, execution, now);
}

void Meetings::check(int rank, const protocol::Execution& execution, TimeUs now) {
  const wire::Request& request = execution.response.tensors.front().request;
  const ProcessSetId set = execution.response.process_set;
  const std::string what = at(rank, now) + request.name + book_.set_text(set);
  if (execution.meets_only && (request.kind != OpKind::kSendRecv ||
                               request.device == DeviceKind::kCpu || !execution.tickets.empty())) {
    fail(what + " is given to be met for, and is no send/recv on a device without tickets");
  }
  if (execution.meets_only && book_.is_needed(request, rank)) {
    fail(what + " is given to be met for to one of the two who run it");
  }
  if (request.device == DeviceKind::kCpu) return;
  const Place place{execution.sequence, execution.index};
  const bool is_first = own_[static_cast<size_t>(rank)].try_emplace(set, place).second;
  if (execution.meets_only && !is_first) {
    fail(what + " is given to be met for after another operation on a device");
  }
  if (is_first && first_.try_emplace(set, place).first->second != place) {
    fail(what + " is the first one on a device here, and another one is on another rank");
  }
}

// Whoever reached the goodbye has been given everything of its sets.
void Meetings::end(const Ending& ending) {
  for (size_t rank = 0; rank < own_.size(); ++rank) {
    if (ending.ranks[rank] != RankState::kGoodbye) continue;
    for (const auto& [set, place] : first_) {
      const int self = static_cast<int>(rank);
      const bool is_member = book_.position(set, self) < book_.members(set).size();
      if (!is_member || own_[rank].contains(set)) continue;
      fail(at(self, ending.now) + "did not meet the others of process set " + std::to_string(set) +
           " for the first operation there on a device");
    }
  }
}

}  // namespace khorus::sim
