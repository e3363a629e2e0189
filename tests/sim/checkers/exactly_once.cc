// See exactly_once.h.
#include "tests/sim/checkers/exactly_once.h"

namespace khorus::sim {

void ExactlyOnce::begin(const Scenario& scenario, const Workload&) {
  tickets_.resize(static_cast<size_t>(scenario.ranks));
}

void ExactlyOnce::submitted(int rank, const Origin&,
                            std::span<const protocol::Submission> submissions, TimeUs) {
  for (const protocol::Submission& submission : submissions) {
    tickets_[static_cast<size_t>(rank)].emplace(submission.ticket, Stage::kSubmitted);
  }
}

void ExactlyOnce::advance(int rank, uint64_t ticket, Stage from, Stage to, TimeUs now) {
  auto& tickets = tickets_[static_cast<size_t>(rank)];
  const auto it = tickets.find(ticket);
  if (it == tickets.end()) {
    fail(at(rank, now) + "an outcome for ticket " + std::to_string(ticket) +
         ", which was never submitted");
  } else if (it->second != from) {
    fail(at(rank, now) + "a second outcome for ticket " + std::to_string(ticket));
  } else {
    it->second = to;
  }
}

void ExactlyOnce::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  for (const protocol::Completion& completion : output.completions) {
    advance(rank, completion.ticket, Stage::kSubmitted, Stage::kDone, now);
  }
  for (const protocol::Execution& execution : output.executions) {
    for (uint64_t ticket : execution.tickets) {
      if (ticket != 0) advance(rank, ticket, Stage::kSubmitted, Stage::kExecuting, now);
    }
  }
}

void ExactlyOnce::executed(int rank, const protocol::Execution& execution, bool, TimeUs now) {
  for (uint64_t ticket : execution.tickets) {
    if (ticket != 0) advance(rank, ticket, Stage::kExecuting, Stage::kDone, now);
  }
}

void ExactlyOnce::end(const Ending& ending) {
  for (size_t rank = 0; rank < tickets_.size(); ++rank) {
    if (ending.ranks[rank] == RankState::kCrashed) continue;
    for (const auto& [ticket, stage] : tickets_[rank]) {
      if (stage == Stage::kDone) continue;
      fail(at(static_cast<int>(rank), ending.now) + "ticket " + std::to_string(ticket) +
           (stage == Stage::kSubmitted ? " never got an outcome" : " never left the data plane"));
    }
  }
}

}  // namespace khorus::sim
