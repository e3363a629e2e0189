// See liveness.h.
#include "tests/sim/checkers/liveness.h"

#include <algorithm>

#include "tests/sim/checkers/set_book.h"

namespace khorus::sim {

void Liveness::begin(const Scenario& scenario, const Workload& workload) {
  const TimeUs factor = scenario.timing.slow_ranks.empty() ? 1 : 30;
  const TimeUs up_or_down = (scenario.depth() + 1) * scenario.hop_max_us();
  // Before it, everything else in flight may be run, one by one, each over the whole tree.
  const auto others = static_cast<TimeUs>(2 * workload.tensors_per_step() + 4);
  decision_bound_us_ = scenario.node.flush_window_us + 2 * up_or_down +
                       others * (factor * scenario.timing.execution_max_us + 2 * up_or_down);
  fault_bound_us_ = scenario.fault_bound_us();
  requests_.resize(static_cast<size_t>(scenario.ranks));
}

void Liveness::submitted(int rank, const Origin&, std::span<const protocol::Submission> submissions,
                         TimeUs now) {
  for (const protocol::Submission& submission : submissions) {
    last_submitted_[key_of(submission.request)] = now;
    requests_[static_cast<size_t>(rank)].emplace(submission.ticket, submission.request);
    // What waits for this rank waits no longer.
    if (submission.request.kind == OpKind::kJoin) last_joined_ = now;
  }
}

void Liveness::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  for (const protocol::Execution& execution : output.executions) {
    for (const wire::ResponseTensor& tensor : execution.response.tensors) {
      decided(rank, tensor.request, now);
    }
  }
  for (const protocol::Completion& completion : output.completions) {
    const auto& requests = requests_[static_cast<size_t>(rank)];
    const auto it = requests.find(completion.ticket);
    if (completion.status.ok() && it != requests.end()) decided(rank, it->second, now);
  }
  if (output.fault && last_fault_us_ != protocol::kNever &&
      now - last_fault_us_ > fault_bound_us_) {
    fail(at(rank, now) + "knew of the fault " + std::to_string(now - last_fault_us_) +
         " us after it, the bound is " + std::to_string(fault_bound_us_) + " us");
  }
}

void Liveness::decided(int rank, const wire::Request& request, TimeUs now) {
  // Operations that a dead rank was part of keep the data plane busy until its death is known.
  const TimeUs bound =
      decision_bound_us_ + (last_fault_us_ == protocol::kNever ? 0 : fault_bound_us_);
  const auto it = last_submitted_.find(key_of(request));
  if (it == last_submitted_.end()) return;
  const TimeUs since = std::max(it->second, last_joined_);
  if (now - since <= bound) return;
  fail(at(rank, now) + request.name + " was decided " + std::to_string(now - since) +
       " us after the last rank submitted it, the bound is " + std::to_string(bound) + " us");
}

// A second death can cut off the news of the first: the bound counts from the last.
void Liveness::fault_happened(TimeUs now) { last_fault_us_ = now; }
void Liveness::crashed(int, TimeUs now) { fault_happened(now); }
void Liveness::link_cut(int, int, TimeUs now) { fault_happened(now); }
void Liveness::data_plane_failed(int, const Status&, TimeUs now) { fault_happened(now); }

void Liveness::end(const Ending& ending) {
  if (ending.ran_away) fail("the run did not come to an end: something ticks for ever");
  for (size_t rank = 0; rank < ending.ranks.size(); ++rank) {
    if (ending.ranks[rank] != RankState::kRunning) continue;
    fail(at(static_cast<int>(rank), ending.now) +
         "still runs although nothing is left to happen: a wait without an end");
  }
}

}  // namespace khorus::sim
