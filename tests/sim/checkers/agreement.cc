// See agreement.h.
#include "tests/sim/checkers/agreement.h"

#include <algorithm>

namespace khorus::sim {

void Agreement::begin(const Scenario& scenario, const Workload&) {
  seen_.resize(static_cast<size_t>(scenario.ranks));
}

void Agreement::sent(int from, int to, const wire::Frame& frame, size_t, TimeUs now) {
  const auto* decision = std::get_if<wire::Decision>(&frame.message);
  if (decision == nullptr) return;
  // What travels is the id or the tensors; a receiver sees no more.
  wire::Decision seen = *decision;
  for (wire::Response& response : seen.responses) {
    if (!response.cache_ids.empty()) response.tensors.clear();
  }
  const auto [it, is_new] = decisions_.try_emplace(decision->sequence, seen);
  if (!is_new && it->second != seen) {
    fail(at(from, now) + "sent rank " + std::to_string(to) + " another decision " +
         std::to_string(decision->sequence) + " than an earlier rank");
  }
}

void Agreement::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  Seen& seen = seen_[static_cast<size_t>(rank)];
  for (uint64_t round : output.agreed_rounds) {
    if (round != seen.rounds + 1) {
      fail(at(rank, now) + "applied decision " + std::to_string(round) + " after " +
           std::to_string(seen.rounds));
    }
    seen.rounds = round;
  }
  for (const protocol::Execution& execution : output.executions) {
    check_execution(rank, execution, now);
  }
  for (const protocol::Completion& completion : output.completions) {
    if (!completion.payloads.empty()) check_payloads(rank, completion.payloads, now);
  }
}

void Agreement::check_execution(int rank, const protocol::Execution& execution, TimeUs now) {
  const size_t index = seen_[static_cast<size_t>(rank)].executions++;
  if (index == executions_.size()) {
    executions_.push_back(execution);
    executions_.back().tickets.clear();
    return;
  }
  const protocol::Execution& reference = executions_[index];
  if (reference.sequence != execution.sequence ||
      reference.response.tensors != execution.response.tensors ||
      reference.response.process_set != execution.response.process_set) {
    fail(at(rank, now) + "execution " + std::to_string(index) + " (decision " +
         std::to_string(execution.sequence) + ") is not the one another rank was given");
  }
}

void Agreement::check_payloads(int rank, const std::vector<wire::Bytes>& payloads, TimeUs now) {
  const size_t index = seen_[static_cast<size_t>(rank)].exchanges++;
  if (index == exchanges_.size()) {
    exchanges_.push_back(payloads);
  } else if (exchanges_[index] != payloads) {
    fail(at(rank, now) + "exchange " + std::to_string(index) + " gave other bytes than elsewhere");
  }
}

// Whoever reached the goodbye has seen everything.
void Agreement::end(const Ending& ending) {
  for (size_t rank = 0; rank < seen_.size(); ++rank) {
    if (ending.ranks[rank] != RankState::kGoodbye) continue;
    if (seen_[rank].executions != executions_.size() ||
        seen_[rank].exchanges != exchanges_.size()) {
      fail(at(static_cast<int>(rank), ending.now) + "said goodbye after " +
           std::to_string(seen_[rank].executions) + " of " + std::to_string(executions_.size()) +
           " executions and " + std::to_string(seen_[rank].exchanges) + " of " +
           std::to_string(exchanges_.size()) + " exchanges");
    }
  }
}

}  // namespace khorus::sim
