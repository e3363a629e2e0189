// See coordinator.h.
#include "core/protocol/coordinator.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/protocol/cache_encoding.h"
#include "core/protocol/fusion_planner.h"
#include "core/protocol/validator.h"
#include "core/wire/codec.h"

namespace khorus::protocol {
namespace {

wire::ResponseTensor tensor_of(Variant&& variant, const wire::RankSet& needed) {
  wire::ResponseTensor tensor;
  tensor.request = std::move(variant.request);
  if (tensor.request.kind == OpKind::kAllgather) {
    for (const int32_t rank : needed.to_vector()) {
      const auto it = variant.extents.find(rank);
      tensor.extents.push_back(it == variant.extents.end() ? 0 : it->second);  // joined: nothing
    }
  }
  for (auto& [rank, payload] : variant.payloads) tensor.payloads.push_back(std::move(payload));
  return tensor;
}

// A tensor of an error response: only what it is known by counts.
wire::ResponseTensor named(const wire::Request& request) {
  wire::ResponseTensor tensor;
  tensor.request.kind = request.kind;
  tensor.request.process_set = request.process_set;
  tensor.request.name = request.name;
  tensor.request.root_rank = request.root_rank;
  tensor.request.peer = request.peer;
  return tensor;
}

}  // namespace

void Coordinator::completed(TableEntry entry, const Roster& roster, TimeUs now) {
  auto message = mismatch(entry, roster);
  if (!message) message = objection_to_absence(entry, roster);
  if (message) {
    fail(entry, *message);
    return;
  }
  Ready ready{tensor_of(std::move(entry.variants.front()), entry.needed), entry.order, now,
              std::move(entry.ranks)};
  const wire::Request& request = ready.tensor.request;
  if (request.group.empty()) {
    ready_.push_back(std::move(ready));
    return;
  }
  const GroupKey key{request.process_set, request.group};
  Group& group = groups_[key];
  group.size = request.group_size;
  group.complete.push_back(std::move(ready));
  touched_groups_.push_back(key);
  if (group.complete.size() < group.size) return;
  if (const auto objection = objection_to_group(key, roster)) {
    fail_group(key, *objection);
    return;
  }
  // All there: released together, side by side, in the place of the first.
  uint64_t order = group.complete.front().order;
  for (const Ready& member : group.complete) order = std::min(order, member.order);
  std::sort(group.complete.begin(), group.complete.end(),
            [](const Ready& a, const Ready& b) { return a.order < b.order; });
  for (Ready& member : group.complete) {
    member.order = order;
    ready_.push_back(std::move(member));
  }
  groups_.erase(key);
}

// A group is submitted as one: a rank that is there for one member and has joined for another has
// submitted it with other members.
std::optional<std::string> Coordinator::objection_to_group(const GroupKey& key,
                                                           const Roster& roster) const {
  const std::vector<Ready>& members = groups_.at(key).complete;
  for (const Ready& member : members) {
    if (member.ranks == members.front().ranks) continue;
    const bool fewer = !members.front().ranks.minus(member.ranks).empty();
    const Ready& with = fewer ? members.front() : member;
    const Ready& without = fewer ? member : members.front();
    return "group \"" + key.second + "\"" + describe_set(key.first, roster.sets) + ": " +
           describe_ranks(with.ranks.minus(without.ranks), roster.peers) + " submitted " +
           describe(with.tensor.request) + " and joined without " +
           describe(without.tensor.request) + "; submit the same group on every rank";
  }
  return std::nullopt;
}

void Coordinator::check_groups(const RequestTable& table, const Roster& roster, TimeUs) {
  for (const GroupKey& key : touched_groups_) {
    const auto it = groups_.find(key);
    if (it == groups_.end()) continue;
    const Group& group = it->second;
    std::string message = "group \"" + key.second + "\"" + describe_set(key.first, roster.sets) +
                          ": all ranks submitted " +
                          describe(group.complete.front().tensor.request);
    std::string others;
    table.for_each([&](const TableEntry& entry) {
      for (const Variant& variant : entry.variants) {
        if (entry.key.process_set != key.first || variant.request.group != key.second) continue;
        if (!others.empty()) others += ", ";
        others += describe(variant.request) + " on " + describe_ranks(variant.ranks, roster.peers);
      }
    });
    message += ", but the other members differ between ranks";
    if (!others.empty()) message += ": only " + others;
    fail_group(key, message + "; submit the same group on every rank");
  }
  touched_groups_.clear();
}

void Coordinator::fail(const TableEntry& entry, const std::string& message) {
  std::set<std::string> groups;
  for (const Variant& variant : entry.variants) {
    if (!variant.request.group.empty()) groups.insert(variant.request.group);
  }
  wire::Response response;
  response.code = StatusCode::kMismatch;
  response.error = message.substr(0, wire::Limits::kMaxTextBytes);
  response.process_set = entry.key.process_set;
  response.tensors.push_back(named(entry.variants.front().request));
  for (const std::string& group : groups) {
    response.failed_groups.push_back(group);
    groups_.erase({entry.key.process_set, group});
  }
  errors_.push_back(std::move(response));
}

void Coordinator::fail_group(const GroupKey& key, const std::string& message) {
  wire::Response response;
  response.code = StatusCode::kMismatch;
  response.error = message.substr(0, wire::Limits::kMaxTextBytes);
  response.process_set = key.first;
  response.failed_groups.push_back(key.second);
  for (const Ready& member : groups_[key].complete) {
    response.tensors.push_back(named(member.tensor.request));
  }
  groups_.erase(key);
  errors_.push_back(std::move(response));
}

void Coordinator::forget_process_set(ProcessSetId id) {
  std::erase_if(ready_, [id](const Ready& r) { return r.tensor.request.process_set == id; });
  std::erase_if(groups_, [id](const auto& item) { return item.first.first == id; });
}

void Coordinator::leave(const std::string& reason) {
  if (leaving_reason_.empty()) leaving_reason_ = reason;
}

FlushState Coordinator::flush_state(const RequestTable& table, int in_flight) const {
  FlushState state;
  for (const Ready& ready : ready_) {
    state.oldest_ready = std::min(state.oldest_ready, ready.since);
    state.ready_bytes += tensor_bytes(ready.tensor);
    state.urgent |= !fusable(ready.tensor.request, ready.tensor.request);
  }
  state.last_arrival = last_arrival_;
  state.others_on_their_way = table.size() > 0;
  state.in_flight = in_flight;
  state.urgent |= !errors_.empty() || !leaving_reason_.empty() || joined_last_ >= 0;
  return state;
}

// What comes after the removal of its set ends with the set; fused with something before it, one
// member of a group would run and the others not.
void Coordinator::drop_removed() {
  std::set<ProcessSetId> removed;
  std::erase_if(ready_, [&](const Ready& ready) {
    const wire::Request& request = ready.tensor.request;
    if (removed.contains(request.process_set)) return true;
    const bool removes = request.kind == OpKind::kRemoveProcessSet;
    if (removes && is_set_id(request.shape.at(0)) && request.shape[0] != kGlobalProcessSet) {
      removed.insert(static_cast<ProcessSetId>(request.shape[0]));
    }
    return false;
  });
}

std::vector<wire::Response> Coordinator::take_ready(const ResponseCache& cache) {
  std::vector<wire::Response> responses;
  size_t frame_bytes = 0;
  const auto full = [&] { return frame_bytes >= wire::Limits::kFullFrameBytes; };
  const auto take = [&](wire::Response&& response) {
    frame_bytes += wire::size_bound(response);
    responses.push_back(std::move(response));
  };
  size_t errors_taken = 0;
  while (errors_taken < errors_.size() && !full()) take(std::move(errors_[errors_taken++]));
  errors_.erase(errors_.begin(), errors_.begin() + static_cast<ptrdiff_t>(errors_taken));

  std::stable_sort(ready_.begin(), ready_.end(),
                   [](const Ready& a, const Ready& b) { return a.order < b.order; });
  drop_removed();
  std::vector<wire::ResponseTensor> tensors;
  tensors.reserve(ready_.size());
  for (Ready& ready : ready_) tensors.push_back(std::move(ready.tensor));
  std::vector<Ready> left;
  for (const auto& bucket : plan_fusion(tensors, options_.fusion_threshold_bytes)) {
    if (full()) {
      for (size_t index : bucket) {
        ready_[index].tensor = std::move(tensors[index]);
        left.push_back(std::move(ready_[index]));
      }
      continue;
    }
    wire::Response response;
    for (size_t index : bucket) response.tensors.push_back(std::move(tensors[index]));
    response.process_set = response.tensors.front().request.process_set;
    compress_response(cache, &response);
    take(std::move(response));
  }
  ready_ = std::move(left);
  return responses;
}

std::optional<wire::Decision> Coordinator::decide(const RequestTable& table,
                                                  const ResponseCache& cache, int in_flight,
                                                  TimeUs now, TimeUs* deadline) {
  *deadline = kNever;
  if (closing_) return std::nullopt;
  const FlushVerdict verdict = decide_flush(flush_state(table, in_flight), options_, now);
  *deadline = verdict.deadline;
  if (!verdict.flush) return std::nullopt;
  wire::Decision decision;
  decision.responses = take_ready(cache);
  if (!errors_.empty() || !ready_.empty()) {
    *deadline = now;
    return decision;
  }
  // After everything that some rank still has to take part in with zeros.
  if (joined_last_ >= 0) {
    wire::Response& join = decision.responses.emplace_back();
    wire::Request& request = join.tensors.emplace_back().request;
    request.kind = OpKind::kJoin;
    request.name = kJoinName;
    request.root_rank = std::exchange(joined_last_, -1);
  }
  if (!leaving_reason_.empty()) {
    decision.shutdown = true;
    decision.shutdown_reason = leaving_reason_;
    closing_ = true;
  }
  return decision;
}

}  // namespace khorus::protocol
