// See node.h. This file: what comes in, from this rank and from its neighbours.
#include <algorithm>
#include <utility>

#include "core/base/assert.h"
#include "core/protocol/cache_encoding.h"
#include "core/protocol/node_state.h"

namespace khorus::protocol {

// ---- from this rank ----

void Node::submit(std::vector<Submission> submissions, TimeUs now) {
  state_->submit(std::move(submissions), now);
}

Status Node::State::refusal_of(const wire::Request& request) const {
  const std::string here = "rank " + std::to_string(options.rank);
  if (joined.contains(options.rank) && request.kind != OpKind::kExchange) {
    return Status(StatusCode::kInvalidArgument,
                  describe(request) + ": " + here +
                      " has joined; wait until join() is over before submitting more");
  }
  const wire::RankSet* members = sets.find(request.process_set);
  if (members == nullptr) {
    return Status(StatusCode::kInvalidArgument,
                  describe(request) + ": there is no process set " +
                      std::to_string(request.process_set) +
                      (sets.was_removed(request.process_set) ? " any more" : ""));
  }
  if (!members->contains(options.rank)) {
    return Status(StatusCode::kInvalidArgument, describe(request) + ": " + here +
                                                    " is not in process set " +
                                                    std::to_string(request.process_set) +
                                                    " (ranks " + members->to_string() + ")");
  }
  if (!sets.can_be_changed_by(request)) {
    return Status(StatusCode::kInvalidArgument,
                  describe(request) + ": ranks " + request.members.to_string() + ", shape " +
                      to_string(request.shape) + ": add some of the " +
                      std::to_string(options.size) + " ranks, or remove one set by its id");
  }
  if (!sets.needed(request).contains(options.rank)) {
    return Status(StatusCode::kInvalidArgument,
                  describe(request) + ": from rank " + std::to_string(request.root_rank) +
                      " to rank " + std::to_string(request.peer) + ", submitted on " + here +
                      ": they must differ and be in process set " +
                      std::to_string(request.process_set) + " (ranks " + members->to_string() +
                      ")");
  }
  if (pending.contains(key_of(request))) {
    return Status(StatusCode::kDuplicateName,
                  describe(request, sets) + " was submitted again on " + here +
                      " before the operation of that name was over; give it another name");
  }
  return Status();
}

void Node::State::submit(std::vector<Submission> submissions, TimeUs now) {
  Status refusal = broken;
  for (Submission& submission : submissions) {
    if (submission.request.kind == OpKind::kJoin) submission.request.name = kJoinName;
  }
  for (const Submission& submission : submissions) {
    if (!refusal.ok()) break;
    refusal = refusal_of(submission.request);
    if (refusal.ok() && submission.request.kind == OpKind::kJoin && submissions.size() > 1) {
      refusal = Status(StatusCode::kInvalidArgument, "a join stands alone, not in a group");
    }
  }
  if (!refusal.ok()) {  // all or nothing
    for (const Submission& s : submissions) out.completions.push_back({s.ticket, refusal, {}});
    return;
  }
  std::vector<wire::Contribution> contributions;
  for (Submission& submission : submissions) {
    wire::Request& request = submission.request;
    last_submitted = describe(request, sets);
    last_submitted_at = now;
    ++stats.submitted;
    wire::Contribution contribution;
    contribution.ranks = wire::RankSet::single(options.rank);
    if (request.kind == OpKind::kAllgather) {
      contribution.extents.push_back(std::exchange(request.shape.at(0), 0));
    }
    if (request.kind == OpKind::kAlltoall) request.shape.at(0) = 0;
    pending.emplace(key_of(request),
                    Pending{submission.ticket, request.kind, signature_of(request), request.group});
    if (request.kind == OpKind::kJoin) {
      add_joined(contribution.ranks, options.rank, now);
      continue;
    }
    if (request.kind == OpKind::kExchange) {
      contribution.payloads.push_back(std::move(submission.payload));
    }
    const ResponseCache::Entry* known = cache.find(key_of(request));
    if (known != nullptr && known->tensor.request == request) ++stats.submitted_from_cache;
    contribution.request = std::move(request);
    contributions.push_back(std::move(contribution));
  }
  // All are pending before the first is added: a fault then ends all of them.
  for (wire::Contribution& contribution : contributions) {
    if (!faulted) add_contribution(std::move(contribution), now);
  }
}

void Node::leave(const std::string& reason, TimeUs) {
  State& state = *state_;
  if (!state.leaving_reason.empty()) return;
  state.leaving_rank = state.options.rank;
  state.leaving_reason = reason.empty() ? "shutdown() was called" : reason;
  if (state.is_root()) state.coordinator->leave(state.leaving_reason);
}

void Node::drained(TimeUs) { state_->self_drained = true; }

void Node::executions_finished(int count, TimeUs now) {
  state_->last_activity = now;
  state_->in_flight -= count;
  KHORUS_ASSERT(state_->in_flight >= 0, "more executions finished than were given out");
}

void Node::data_plane_failed(const Status& status, TimeUs now) {
  State& state = *state_;
  // What failed because a peer died is that peer's fault, wherever it was seen.
  const bool lost = status.code() == StatusCode::kPeerLost && status.lost_rank() >= 0;
  state.fail(wire::Fault{lost ? StatusCode::kPeerLost : StatusCode::kAborted,
                         lost ? status.lost_rank() : state.options.rank, status.message()},
             -1, now);
}

// ---- from neighbours ----

Node::State::Child* Node::State::find_child(int rank) {
  const auto it = std::find_if(children.begin(), children.end(),
                               [rank](const Child& child) { return child.rank == rank; });
  return it == children.end() ? nullptr : &*it;
}

void Node::receive(int from, const wire::Frame& frame, TimeUs now) {
  State& state = *state_;
  if (state.faulted || frame.epoch != state.options.epoch) return;
  if (const auto* fault = std::get_if<wire::Fault>(&frame.message)) {
    state.fail(*fault, from, now);
  } else if (from == state.topology.parent() && !state.is_root()) {
    state.receive_from_parent(frame, now);
  } else if (State::Child* child = state.find_child(from)) {
    state.receive_from_child(*child, frame, now);
  } else {
    state.violation(from, "a frame, but is not a neighbour", now);
  }
}

void Node::peer_closed(int peer, const std::string& reason, TimeUs now) {
  State& state = *state_;
  if (State::Child* child = state.find_child(peer)) child->closed = true;
  if (state.goodbye || state.faulted) return;
  state.fail(wire::Fault{StatusCode::kPeerLost, peer, reason}, peer, now);
}

void Node::State::receive_from_parent(const wire::Frame& frame, TimeUs now) {
  if (const auto* decision = std::get_if<wire::Decision>(&frame.message)) {
    if (decision->sequence != applied + 1) {
      violation(
          topology.parent(),
          "decision " + std::to_string(decision->sequence) + " after " + std::to_string(applied),
          now);
      return;
    }
    send_to_children(*decision);
    apply(*decision, now);
  } else if (const auto* query = std::get_if<wire::StallQuery>(&frame.message)) {
    receive_stall_query(*query, now);
  } else if (const auto* report = std::get_if<wire::StallReport>(&frame.message)) {
    send_to_children(*report);
    log(LogLevel::kWarning, report->text);
    ++stats.stall_reports;
  } else {
    violation(topology.parent(), "a message that only children send", now);
  }
}

void Node::State::receive_from_child(Child& child, const wire::Frame& frame, TimeUs now) {
  if (const auto* report = std::get_if<wire::Report>(&frame.message)) {
    receive_report(child, *report, now);
  } else if (const auto* answer = std::get_if<wire::StallAnswer>(&frame.message)) {
    if (child.subtree.contains(answer->rank)) {
      receive_stall_answer(*answer, now);
    } else {
      violation(child.rank, "an answer for rank " + std::to_string(answer->rank), now);
    }
  } else {
    violation(child.rank, "a message that only the parent sends", now);
  }
}

void Node::State::receive_report(Child& child, const wire::Report& report, TimeUs now) {
  if (report.applied_sequence > applied || report.applied_sequence < child.applied_sequence) {
    violation(child.rank,
              "a report with applied decision " + std::to_string(report.applied_sequence), now);
    return;
  }
  child.applied_sequence = report.applied_sequence;
  std::string error;
  auto contributions = expand_report(report, child.subtree, cache, sets, &error);
  if (!error.empty()) {
    violation(child.rank, error, now);
    return;
  }
  for (wire::Contribution& contribution : contributions) {
    const wire::Request& request = contribution.request;
    const bool over =
        std::any_of(failed_groups.begin(), failed_groups.end(), [&](const FailedGroup& failed) {
          return report.applied_sequence < failed.sequence && failed.group == request.group &&
                 failed.process_set == request.process_set;
        });
    if (!over && !shutting_down) add_contribution(std::move(contribution), now);
    if (faulted) return;
  }
  if (!report.joined.empty() && !shutting_down) {
    if (!child.subtree.contains_all(report.joined)) {
      violation(child.rank, "a join of ranks " + report.joined.to_string(), now);
      return;
    }
    add_joined(report.joined, child.rank, now);
    if (faulted) return;
  }
  if (!report.leaving_reason.empty() && leaving_reason.empty()) {
    leaving_rank = report.leaving_rank;
    leaving_reason = report.leaving_reason;
    if (is_root()) coordinator->leave(leaving_reason);
  }
  if (report.drained) child.drained = true;
  forget_what_children_know();
}

void Node::State::add_contribution(wire::Contribution contribution, TimeUs now) {
  wire::RankSet needed = sets.needed(contribution.request);
  if (!is_root()) needed = needed.minus(needed.minus(topology.subtree()));
  const std::string what = describe(contribution.request);
  const int speaker = contribution.ranks.first();
  const bool timed = is_root() && stragglers.enabled();
  const wire::RankSet speakers = timed ? contribution.ranks : wire::RankSet();
  if (watch_arrivals && is_root()) {
    out.arrivals.push_back({contribution.request.name, contribution.ranks});
  }
  last_activity = now;
  const size_t before = table.size();
  TableEntry* entry = table.add(std::move(contribution), needed, now);
  if (entry == nullptr) {
    violation(speaker, what + " twice", now);
    return;
  }
  if (table.size() > wire::Limits::kMaxItems) {
    violation(speaker,
              what + " beyond " + std::to_string(wire::Limits::kMaxItems) + " operations that wait",
              now);
    return;
  }
  // Joined ranks need not submit, but for an exchange: that is Khorus' own.
  if (table.size() > before && entry->variants.front().request.kind != OpKind::kExchange) {
    entry->joined = joined;
  }
  if (timed) stragglers.arrived(entry, speakers, now);
  if (entry->complete()) {
    to_pass_on.push_back(entry->key);
  } else if (is_root()) {
    if (table.size() > before) coordinator->arrived(now);
  } else if (hold_us != kNever) {
    next_hold = std::min(next_hold, std::max(now, entry->first_seen + hold_us));
  }
}

void Node::State::add_joined(const wire::RankSet& ranks, int speaker, TimeUs now) {
  if (joined.intersects(ranks)) {
    violation(speaker, "a second join of ranks " + ranks.to_string(), now);
    return;
  }
  last_activity = now;
  joined.add_all(ranks);
  newly_joined.add_all(ranks);
  table.for_each([&](TableEntry& entry) {
    if (entry.variants.front().request.kind == OpKind::kExchange) return;
    const bool was_complete = entry.complete();
    entry.joined = joined;
    if (!was_complete && entry.complete()) to_pass_on.push_back(entry.key);
  });
  if (is_root() && joined.count() == options.size) {
    coordinator->all_joined(ranks.intervals().back().last);
  }
}

void Node::State::receive_stall_query(const wire::StallQuery& query, TimeUs now) {
  for (const Child& child : children) {
    if (child.subtree.intersects(query.ranks) && !child.closed) send(child.rank, query);
  }
  if (!query.ranks.contains(options.rank)) return;
  out.waited_for = true;
  wire::StallAnswer answer;
  answer.number = query.number;
  answer.rank = options.rank;
  answer.last_submitted = last_submitted;
  answer.last_submitted_ago_ms = last_submitted.empty() ? -1 : (now - last_submitted_at) / 1000;
  answer.submitted = stats.submitted;
  answer.waiting = pending.size();
  receive_stall_answer(answer, now);
}

void Node::State::receive_stall_answer(const wire::StallAnswer& answer, TimeUs now) {
  if (is_root()) {
    stall_inspector.answer(answer, now);
  } else {
    send(topology.parent(), answer);
  }
}

}  // namespace khorus::protocol
