// See node.h. This file: decisions and faults, applied. Decisions are identical on every rank and
// applied in sequence; the response cache changes here and nowhere else.
#include <algorithm>
#include <utility>

#include "core/protocol/cache_encoding.h"
#include "core/protocol/node_state.h"
#include "core/protocol/validator.h"

namespace khorus::protocol {

void Node::State::apply(wire::Decision decision, TimeUs now) {
  // All ids are resolved before the cache changes: they were chosen at the same moment.
  std::vector<bool> cached;
  for (wire::Response& response : decision.responses) {
    cached.push_back(!response.cache_ids.empty());
    if (!expand_response(cache, &response)) {
      violation(topology.parent(), "a cache id that this rank does not have", now);
      return;
    }
  }
  applied = decision.sequence;
  ++stats.decisions;
  history_digest = history_digest * 31 + decision.sequence;
  out.agreed_rounds.push_back(applied);
  for (size_t i = 0; i < decision.responses.size(); ++i) {
    apply_response(std::move(decision.responses[i]), static_cast<uint32_t>(i), cached[i]);
    if (faulted) return;
  }
  if (decision.shutdown) {
    begin_shutdown(decision.shutdown_reason);
    if (const auto text = stragglers.report(peers, now)) log(LogLevel::kWarning, *text);
  }
  if (decision.goodbye) {
    goodbye = true;
    out.goodbye = true;
  }
  forget_what_children_know();
}

void Node::State::apply_response(wire::Response response, uint32_t index, bool cached) {
  for (const wire::ResponseTensor& tensor : response.tensors) {
    history_digest = history_digest * 1099511628211U + TensorKeyHash()(key_of(tensor.request));
  }
  if (response.code != StatusCode::kOk) {
    apply_error(response);
    return;
  }
  if (const std::string what = malformation(response); !what.empty()) {
    violation(topology.parent(), what, 0);
    return;
  }
  const uint64_t first_position = agreed_operations + 1;
  agreed_operations += response.tensors.size();
  for (size_t i = 0; i < response.tensors.size(); ++i) {
    const wire::ResponseTensor& tensor = response.tensors[i];
    // An inner node may still remember it (pass_on). What it knows of this name is all over: nobody
    // submits it again before having applied this.
    if (!is_root()) table.erase(key_of(tensor.request));
    const ResponseCache::Entry* known = cache.find(key_of(tensor.request));
    if (cached) {
      cache.touch(response.cache_ids[i]);
    } else if (known != nullptr && known->tensor == tensor) {
      cache.touch(known->id);
    } else {
      cache.put(tensor, applied);
    }
  }
  if (!sets.find(response.process_set)->contains(options.rank)) return;
  const bool must_meet = is_on_device(response) && sets.is_first_on_device(response.process_set);
  const bool takes_part = std::any_of(response.tensors.begin(), response.tensors.end(),
                                      [&](const wire::ResponseTensor& tensor) {
                                        return sets.needed(tensor.request).contains(options.rank);
                                      });
  Execution execution;
  execution.sequence = applied;
  execution.index = index;
  execution.first_position = first_position;
  if (!takes_part && !response.tensors.empty()) {  // a send/recv of others
    execution.meets_only = must_meet;
    if (must_meet) give_out(std::move(execution), std::move(response));
    return;
  }
  if (const std::string what = objection(response); !what.empty()) {
    violation(topology.parent(), what, 0);
    return;
  }
  for (const wire::ResponseTensor& tensor : response.tensors) {
    const auto it = pending.find(key_of(tensor.request));
    execution.tickets.push_back(it == pending.end() ? 0 : it->second.ticket);
    if (it != pending.end()) pending.erase(it);
  }
  if (!runs_on_data_plane(response.tensors.front().request.kind)) {
    apply_control(response, std::move(execution.tickets), first_position);
    return;
  }
  give_out(std::move(execution), std::move(response));
}

void Node::State::give_out(Execution execution, wire::Response response) {
  ++in_flight;
  execution.response = std::move(response);
  out.executions.push_back(std::move(execution));
}

// What is over with the decision itself.
void Node::State::apply_control(const wire::Response& response, std::vector<uint64_t> tickets,
                                uint64_t first_position) {
  for (size_t i = 0; i < response.tensors.size(); ++i) {
    const wire::ResponseTensor& tensor = response.tensors[i];
    Completion completion{tickets[i], Status(), tensor.payloads, first_position + i, -1};
    switch (tensor.request.kind) {
      case OpKind::kJoin:
        joined = wire::RankSet();
        newly_joined = wire::RankSet();
        completion.value = tensor.request.root_rank;
        break;
      case OpKind::kAddProcessSet:
        completion.value = sets.add(tensor.request.members);
        if (tensor.request.members.contains(options.rank)) {
          out.set_changes.push_back(
              {static_cast<ProcessSetId>(completion.value), true, tensor.request.members});
        }
        break;
      case OpKind::kRemoveProcessSet:
        completion.status = remove_process_set(tensor.request.shape.at(0));
        break;
      default:
        break;
    }
    if (completion.ticket != 0) out.completions.push_back(std::move(completion));
  }
}

Status Node::State::remove_process_set(int64_t number) {
  const auto id = is_set_id(number) ? static_cast<ProcessSetId>(number) : kGlobalProcessSet;
  if (!sets.removable(id)) {
    return Status(StatusCode::kInvalidArgument, "remove_process_set: there is no process set " +
                                                    std::to_string(number) +
                                                    " that could be removed");
  }
  const wire::RankSet members = *sets.find(id);
  const Status over(StatusCode::kInvalidArgument, "process set " + std::to_string(id) +
                                                      " was removed before all its ranks "
                                                      "had submitted the operation");
  for (auto it = pending.begin(); it != pending.end();) {
    if (it->first.process_set != id) {
      ++it;
      continue;
    }
    const Status status(over.code(),
                        describe(it->second.kind, it->first.name) + ": " + over.message());
    out.completions.push_back({it->second.ticket, status, {}});
    it = pending.erase(it);
  }
  table.erase_process_set(id);
  if (is_root()) coordinator->forget_process_set(id);
  sets.remove(id);
  if (members.contains(options.rank)) out.set_changes.push_back({id, false, members});
  return Status();
}

// Why no rank can have asked for the response; empty when some may. Checked before the cache keeps
// it: what is kept there is trusted.
std::string Node::State::malformation(const wire::Response& response) const {
  const wire::RankSet* members = sets.find(response.process_set);
  if (members == nullptr) {
    return "a response of an unknown process set " + std::to_string(response.process_set);
  }
  const auto count = static_cast<size_t>(members->count());
  for (const wire::ResponseTensor& tensor : response.tensors) {
    const wire::Request& request = tensor.request;
    if (request.process_set != response.process_set) {
      return "a response for " + describe(request) + " of another process set";
    }
    if (tensor.extents.size() != (request.kind == OpKind::kAllgather ? count : 0) ||
        tensor.payloads.size() != (request.kind == OpKind::kExchange ? count : 0)) {
      return "a response for " + describe(request) + " without a part for every rank";
    }
  }
  return "";
}

// Why the response cannot be what this rank has asked for; empty when it can. The data plane runs
// what a response says on memory that this rank has given: it is checked before anything is.
std::string Node::State::objection(const wire::Response& response) const {
  if (response.tensors.empty()) return "a response without tensors";
  std::vector<uint64_t> tickets;
  for (const wire::ResponseTensor& tensor : response.tensors) {
    const wire::Request& request = tensor.request;
    const auto it = pending.find(key_of(request));
    const bool joins_in = it == pending.end() && joined.contains(options.rank) &&
                          (runs_on_data_plane(request.kind) || request.kind == OpKind::kBarrier);
    if (it == pending.end() && !joins_in) {
      return "a response for " + describe(request) + ", which this rank has not submitted";
    }
    const bool is_join = request.kind == OpKind::kJoin;  // the response says who was last
    if ((!joins_in && !is_join && it->second.signature != signature_of(request)) ||
        request.kind != response.tensors.front().request.kind) {
      return "a response for " + describe(request) + " other than this rank has submitted it";
    }
    if (!joins_in) tickets.push_back(it->second.ticket);
  }
  std::sort(tickets.begin(), tickets.end());
  const bool twice = std::adjacent_find(tickets.begin(), tickets.end()) != tickets.end();
  return twice ? "a response with an operation twice" : "";
}

void Node::State::apply_error(const wire::Response& response) {
  const Status status(response.code, response.error);
  const auto finish = [&](auto it) {
    out.completions.push_back({it->second.ticket, status, {}});
    return pending.erase(it);
  };
  for (const wire::ResponseTensor& tensor : response.tensors) {
    const TensorKey key = key_of(tensor.request);
    const auto it = pending.find(key);
    if (it != pending.end()) finish(it);
    table.erase(key);
  }
  for (const std::string& group : response.failed_groups) {
    for (auto it = pending.begin(); it != pending.end();) {
      const bool member = it->second.group == group &&
                          it->first.process_set == response.process_set && !group.empty();
      it = member ? finish(it) : std::next(it);
    }
    table.erase_group(response.process_set, group);
    failed_groups.push_back({applied, response.process_set, group});
  }
}

void Node::State::begin_shutdown(const std::string& reason) {
  shutting_down = true;
  broken = Status(StatusCode::kShutdown, reason);
  complete_all_pending(broken);
  table.clear();
  to_pass_on.clear();
  next_hold = kNever;
  out.shutdown = true;
  out.shutdown_status = broken;
}

void Node::State::complete_all_pending(const Status& status) {
  for (const auto& [key, operation] : pending) {
    out.completions.push_back(
        {operation.ticket,
         Status(status.code(), describe(operation.kind, key.name) + ": " + status.message(),
                status.lost_rank()),
         {}});
  }
  pending.clear();
}

void Node::State::fail(const wire::Fault& fault, int source, TimeUs) {
  if (faulted || goodbye) return;
  faulted = true;
  // The cause travels first, so that neighbours learn it before they see this rank end.
  out.frames.clear();
  if (!is_root() && topology.parent() != source) send(topology.parent(), fault);
  for (const Child& child : children) {
    if (child.rank != source && !child.closed) send(child.rank, fault);
  }
  std::string text;
  if (fault.code == StatusCode::kPeerLost) {
    text = describe_peer(fault.rank, peers) + " is lost: " + fault.reason;
  } else if (fault.rank >= 0) {
    text = "the data plane of " + describe_peer(fault.rank, peers) + " failed: " + fault.reason;
  } else {
    text = fault.reason;
  }
  broken = Status(fault.code, text, fault.code == StatusCode::kPeerLost ? fault.rank : -1);
  complete_all_pending(broken);
  table.clear();
  to_pass_on.clear();
  out.fault = broken;
}

void Node::State::violation(int peer, const std::string& what, TimeUs now) {
  fail(wire::Fault{StatusCode::kInternal, -1,
                   describe_peer(peer, peers) + " sent " + what + " to rank " +
                       std::to_string(options.rank)},
       -1, now);
}

// What every child has applied needs no memory here any more.
void Node::State::forget_what_children_know() {
  uint64_t known = applied;
  for (const Child& child : children) known = std::min(known, child.applied_sequence);
  cache.forget_evicted(known);
  while (!failed_groups.empty() && failed_groups.front().sequence <= known) {
    failed_groups.pop_front();
  }
}

}  // namespace khorus::protocol
