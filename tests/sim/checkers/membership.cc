// See membership.h.
#include "tests/sim/checkers/membership.h"

#include <algorithm>

namespace khorus::sim {

void Membership::begin(const Scenario& scenario, const Workload&) {
  book_.begin(scenario);
  ranks_.resize(static_cast<size_t>(scenario.ranks));
  strict_ = !scenario.faults.missing;
  news_bound_us_ = (scenario.depth() + 2) * scenario.hop_max_us();
}

void Membership::submitted(int rank, const Origin& origin,
                           std::span<const protocol::Submission> submissions, TimeUs now) {
  book_.submitted(rank, origin, submissions);
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  for (const protocol::Submission& submission : submissions) {
    mine.tickets.emplace(submission.ticket, Known{submission.request, origin});
    if (submission.request.kind != OpKind::kJoin || origin.after_end) continue;
    if (mine.joins_over == joins_.size()) {
      joins_.emplace_back().at.assign(ranks_.size(), protocol::kNever);
    }
    joins_[mine.joins_over].at[static_cast<size_t>(rank)] = now;
  }
}

void Membership::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  book_.learn_sets(rank, output);
  for (const protocol::Execution& execution : output.executions) {
    check_execution(rank, execution, now);
  }
  std::vector<protocol::SetChange> expected;
  for (const protocol::Completion& completion : output.completions) {
    check_completion(rank, completion, &expected, now);
  }
  check_changes(rank, output, expected, now);
  book_.learn_joins(rank, output);
}

void Membership::check_execution(int rank, const protocol::Execution& execution, TimeUs now) {
  const ProcessSetId set = execution.response.process_set;
  if (ranks_[static_cast<size_t>(rank)].gone.contains(set)) {
    fail(at(rank, now) + "runs an operation of process set " + std::to_string(set) +
         ", which it was told is no more");
  }
  const size_t count = std::min(execution.tickets.size(), execution.response.tensors.size());
  for (size_t i = 0; i < count; ++i) {
    const wire::ResponseTensor& tensor = execution.response.tensors[i];
    if (execution.tickets[i] != 0) {
      note_fate(rank, execution.tickets[i], Status(), now);
      continue;
    }
    if (!book_.has_joined(rank)) {
      fail(at(rank, now) + "runs " + tensor.request.name +
           " without a ticket although it has not joined");
    }
    const size_t position = book_.position(set, rank);
    if (position < tensor.extents.size() && tensor.extents[position] != 0) {
      fail(at(rank, now) + "has joined and is said to give " +
           std::to_string(tensor.extents[position]) + " rows of " + tensor.request.name);
    }
  }
}

void Membership::check_completion(int rank, const protocol::Completion& completion,
                                  std::vector<protocol::SetChange>* expected, TimeUs now) {
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  const auto it = mine.tickets.find(completion.ticket);
  if (it == mine.tickets.end()) return;
  const wire::Request& request = it->second.request;
  note_fate(rank, completion.ticket, completion.status, now);
  if (!completion.status.ok()) return;
  const auto expect = [&](ProcessSetId id, bool added) {
    if (book_.position(id, rank) == book_.members(id).size()) return;
    expected->push_back({id, added, wire::RankSet::of(book_.members(id))});
  };
  if (request.kind == OpKind::kAddProcessSet) {
    const auto id = static_cast<ProcessSetId>(completion.value);
    added(rank, request, id, now);
    expect(id, true);
  } else if (request.kind == OpKind::kRemoveProcessSet) {
    expect(static_cast<ProcessSetId>(request.shape.at(0)), false);
  } else if (request.kind == OpKind::kJoin) {
    join_over(rank, completion.value, now);
  }
}

void Membership::check_changes(int rank, const protocol::Output& output,
                               const std::vector<protocol::SetChange>& expected, TimeUs now) {
  const auto same = [](const protocol::SetChange& a, const protocol::SetChange& b) {
    return a.id == b.id && a.added == b.added && a.members == b.members;
  };
  if (!std::equal(expected.begin(), expected.end(), output.set_changes.begin(),
                  output.set_changes.end(), same)) {
    fail(at(rank, now) + "was told of " + std::to_string(output.set_changes.size()) +
         " changes of its process sets, and not of the " + std::to_string(expected.size()) +
         " that were agreed");
  }
  for (const protocol::SetChange& change : output.set_changes) {
    if (!change.added) ranks_[static_cast<size_t>(rank)].gone.insert(change.id);
  }
}

void Membership::added(int rank, const wire::Request& request, ProcessSetId id, TimeUs now) {
  PerRank& mine = ranks_[static_cast<size_t>(rank)];
  const auto [it, is_new] = names_.try_emplace(id, request.name);
  if (id <= mine.last_id || it->second != request.name) {
    fail(at(rank, now) + request.name + " was given the id " + std::to_string(id) +
         ", which was given before");
  }
  mine.last_id = std::max(mine.last_id, id);
  if (request.members.to_vector() != book_.members(id)) {
    fail(at(rank, now) + "process set " + std::to_string(id) + " has other members elsewhere");
  }
}

void Membership::join_over(int rank, int64_t last, TimeUs now) {
  Join& join = joins_[ranks_[static_cast<size_t>(rank)].joins_over++];
  const TimeUs latest = *std::max_element(join.at.begin(), join.at.end());
  if (latest == protocol::kNever) {
    fail(at(rank, now) + "its join is over although not all ranks have joined");
    return;
  }
  if (last < 0 || last >= static_cast<int64_t>(ranks_.size())) {
    fail(at(rank, now) + "its join names rank " + std::to_string(last) + " as the last");
  } else if (join.at[static_cast<size_t>(last)] + news_bound_us_ < latest) {
    fail(at(rank, now) + "its join names rank " + std::to_string(last) + " as the last, which " +
         "joined " + std::to_string(latest - join.at[static_cast<size_t>(last)]) +
         " us before another");
  }
  if (join.over && join.last != last) {
    fail(at(rank, now) + "its join names rank " + std::to_string(last) +
         " as the last, another rank's named rank " + std::to_string(join.last));
  }
  join.over = true;
  join.last = last;
}

void Membership::note_fate(int rank, uint64_t ticket, const Status& status, TimeUs now) {
  const auto& tickets = ranks_[static_cast<size_t>(rank)].tickets;
  const auto it = tickets.find(ticket);
  if (it == tickets.end()) return;  // the exactly-once checker complains
  const Known& known = it->second;
  const bool in_set = known.request.process_set != kGlobalProcessSet;
  const Origin& origin = known.origin;
  if (!strict_ || !in_set || origin.duplicate || origin.after_end || origin.joined) return;
  Fate& fate = fates_[{origin.step, origin.unit}];
  fate.well |= status.ok();
  fate.removed |= status.code() == StatusCode::kInvalidArgument;
  if (fate.well && fate.removed) {
    fail(at(rank, now) + known.request.name + " of process set " +
         std::to_string(known.request.process_set) +
         " ran on one rank and ended with the set on another");
  }
}

}  // namespace khorus::sim
