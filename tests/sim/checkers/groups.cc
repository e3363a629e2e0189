// See groups.h.
#include "tests/sim/checkers/groups.h"

namespace khorus::sim {

void Groups::begin(const Scenario& scenario, const Workload&) {
  ranks_.resize(static_cast<size_t>(scenario.ranks));
}

void Groups::submitted(int rank, const Origin&, std::span<const protocol::Submission> submissions,
                       TimeUs) {
  const std::string& group = submissions.front().request.group;
  if (group.empty()) return;
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  for (const protocol::Submission& submission : submissions) {
    mine.group_of.emplace(submission.ticket, mine.groups.size());
  }
  mine.groups.push_back({group, submissions.size(), 0, {}});
}

void Groups::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  for (const protocol::Execution& execution : output.executions) {
    for (uint64_t ticket : execution.tickets) {
      member_ended(rank, ticket, execution.sequence, now);
    }
  }
  for (const protocol::Completion& completion : output.completions) {
    member_ended(rank, completion.ticket, std::nullopt, now);
  }
}

void Groups::member_ended(int rank, uint64_t ticket, std::optional<uint64_t> decision, TimeUs now) {
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  const auto it = mine.group_of.find(ticket);
  if (it == mine.group_of.end()) return;
  Group& group = mine.groups[it->second];
  if (group.ended++ == 0) {
    group.decision = decision;
  } else if (group.decision != decision) {
    fail(at(rank, now) + "the members of group \"" + group.name +
         "\" did not run together: one by " +
         (group.decision ? "decision " + std::to_string(*group.decision) : "an error") +
         ", another by " + (decision ? "decision " + std::to_string(*decision) : "an error"));
  }
}

}  // namespace khorus::sim
