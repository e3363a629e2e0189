// See node.h. This file: construction, tick() and what it sends.
#include "core/protocol/node.h"

#include <algorithm>
#include <utility>

#include "core/base/assert.h"
#include "core/protocol/cache_encoding.h"
#include "core/protocol/node_state.h"
#include "core/wire/codec.h"

namespace khorus::protocol {

Node::State::State(const NodeOptions& node_options)
    : options(node_options),
      topology(options.rank, options.size, options.fan_in),
      sets(options.size),
      cache(options.cache_capacity),
      stall_inspector(options.stall_warning_us, options.stall_shutdown_us),
      stragglers(options.straggler_report) {
  for (int rank : topology.children()) {
    Child child;
    child.rank = rank;
    child.subtree = Topology::subtree_of(rank, options.size, options.fan_in);
    children.push_back(std::move(child));
  }
  if (is_root()) coordinator.emplace(options);
  if (options.stall_warning_us > 0) {
    // All levels together keep an entry from the root for at most a quarter of the warning time.
    const int depth = std::max(1, Topology::depth(options.size, options.fan_in));
    hold_us = std::max<TimeUs>(1, options.stall_warning_us / (4 * depth));
  }
}

Node::Node(const NodeOptions& options) : state_(std::make_unique<State>(options)) {}
Node::~Node() = default;

int Node::parent() const noexcept { return state_->topology.parent(); }
const std::vector<int>& Node::children() const noexcept { return state_->topology.children(); }
void Node::set_peers(std::vector<PeerInfo> peers) { state_->peers = std::move(peers); }
void Node::watch_arrivals(bool watch) { state_->watch_arrivals = watch; }
void Node::set_fusion(int64_t threshold_bytes, TimeUs window_us) {
  if (state_->is_root()) state_->coordinator->set_fusion(threshold_bytes, window_us);
}
uint64_t Node::applied_sequence() const noexcept { return state_->applied; }
const NodeStats& Node::stats() const noexcept { return state_->stats; }
uint64_t Node::state_digest() const noexcept {
  return state_->history_digest * 1099511628211U + state_->cache.digest();
}

Output Node::tick(TimeUs now) {
  State& state = *state_;
  if (!state.faulted) {
    if (state.is_root()) {
      const uint64_t before = state.applied;
      state.decide(now);
      if (state.applied == before) {
        state.inspect_stalls(now);
      } else {
        // Giving up would take back what was decided just now: not in the same breath.
        state.stall_deadline = now;
      }
    } else {
      state.report_to_parent(now);
    }
  }
  state.stats.cached_tensors = state.cache.size();
  Output out = std::move(state.out);
  state.out = Output();
  return out;
}

TimeUs Node::next_deadline() const noexcept {
  const State& state = *state_;
  if (state.faulted) return kNever;
  return std::min({state.flush_deadline, state.stall_deadline, state.next_hold});
}

void Node::State::send(int peer, wire::Message message) {
  out.frames.emplace_back(peer, wire::Frame{options.epoch, std::move(message)});
}

void Node::State::send_to_children(const wire::Message& message) {
  for (const Child& child : children) {
    if (!child.closed) send(child.rank, message);
  }
}

void Node::State::log(LogLevel level, std::string text) {
  out.log.push_back({level, std::move(text)});
}

bool Node::State::subtree_drained() const {
  return self_drained && std::all_of(children.begin(), children.end(),
                                     [](const Child& child) { return child.drained; });
}

// ---- inner nodes ----

// Appends what `ranks` have submitted, and sends the report if it is full.
void Node::State::report(const TableEntry& entry, const wire::RankSet& ranks, wire::Report* news) {
  const size_t before = news->contributions.size();
  append_to_report(entry, ranks, entry.needed, cache, sets, news);
  for (size_t i = before; i < news->contributions.size(); ++i) {
    report_bytes += wire::size_bound(news->contributions[i]);
  }
  if (report_bytes < wire::Limits::kFullFrameBytes) return;
  send(topology.parent(), std::exchange(*news, wire::Report()));
  news->applied_sequence = applied;
  report_bytes = 0;
}

// Entries that the whole subtree has submitted go to the parent and are forgotten here. Where its
// ranks differ they are remembered until it is decided: the failure of a group ends it for some of
// them, and what those submit next meets what the others' parent waits with.
void Node::State::pass_on(wire::Report* news) {
  for (const TensorKey& key : to_pass_on) {
    TableEntry* entry = table.find(key);
    if (entry == nullptr) continue;
    if (!entry->complete()) {  // the failure of a group has taken ranks away meanwhile
      if (hold_us != kNever) next_hold = std::min(next_hold, entry->first_seen + hold_us);
      continue;
    }
    report(*entry, entry->needed.minus(entry->passed_on), news);
    if (entry->variants.size() == 1) {
      table.erase(key);
    } else {
      entry->passed_on = entry->ranks;
    }
  }
  to_pass_on.clear();
}

// Entries that wait for long are passed on as far as they are, so that the root can see a stall.
void Node::State::pass_on_overdue(wire::Report* news, TimeUs now) {
  if (hold_us == kNever || now < next_hold) return;
  next_hold = kNever;
  std::vector<TableEntry*> overdue;
  table.for_each([&](TableEntry& entry) {
    if (entry.ranks.minus(entry.passed_on).empty()) return;
    if (now < entry.first_seen + hold_us) {
      next_hold = std::min(next_hold, entry.first_seen + hold_us);
    } else {
      overdue.push_back(&entry);
    }
  });
  std::sort(overdue.begin(), overdue.end(),
            [](const TableEntry* a, const TableEntry* b) { return a->order < b->order; });
  for (TableEntry* entry : overdue) {
    report(*entry, entry->ranks.minus(entry->passed_on), news);
    entry->passed_on = entry->ranks;
  }
}

void Node::State::report_to_parent(TimeUs now) {
  if (goodbye) return;
  wire::Report report;
  report.applied_sequence = applied;
  report_bytes = 0;
  pass_on(&report);
  pass_on_overdue(&report, now);
  if (!leaving_reason.empty() && !leaving_reported && !shutting_down) {
    report.leaving_rank = leaving_rank;
    report.leaving_reason = leaving_reason;
    leaving_reported = true;
  }
  if (!shutting_down) report.joined = std::exchange(newly_joined, wire::RankSet());
  if (shutting_down && !drained_reported && subtree_drained()) {
    report.drained = true;
    drained_reported = true;
  }
  const bool news = !report.cached_all.empty() || !report.cached_some.empty() ||
                    !report.contributions.empty() || !report.leaving_reason.empty() ||
                    !report.joined.empty() || report.drained;
  if (news) send(topology.parent(), std::move(report));
}

// ---- the root ----

void Node::State::decide(TimeUs now) {
  flush_deadline = kNever;
  if (!shutting_down) {
    for (const TensorKey& key : to_pass_on) {
      TableEntry* entry = table.find(key);
      if (entry == nullptr || !entry->complete()) continue;
      TableEntry complete = std::move(*entry);
      table.erase(key);
      coordinator->completed(std::move(complete), roster(), now);
    }
    to_pass_on.clear();
    coordinator->check_groups(table, roster(), now);
    auto decision = coordinator->decide(table, cache, in_flight, now, &flush_deadline);
    if (decision) {
      decision->sequence = applied + 1;
      send_to_children(*decision);
      apply(std::move(*decision), now);
    }
  }
  if (shutting_down && !goodbye && subtree_drained()) {
    wire::Decision farewell;
    farewell.sequence = applied + 1;
    farewell.goodbye = true;
    send_to_children(farewell);
    apply(std::move(farewell), now);
  }
}

// The join of those that have joined, as an operation that the others have not submitted. It waits
// since all were busy last: while others submit, or run something, it is no stall.
std::optional<TableEntry> Node::State::waiting_join() const {
  if (joined.empty() || joined.count() == options.size) return std::nullopt;
  TableEntry entry;
  Variant& variant = entry.variants.emplace_back();
  variant.request.kind = OpKind::kJoin;
  variant.request.name = kJoinName;
  variant.ranks = joined;
  entry.key = key_of(variant.request);
  entry.ranks = joined;
  entry.needed = wire::RankSet::all(options.size);
  entry.order = std::numeric_limits<uint64_t>::max();
  entry.first_seen = last_activity;
  return entry;
}

void Node::State::inspect_stalls(TimeUs now) {
  stall_deadline = kNever;
  if (shutting_down || options.stall_warning_us == 0) return;
  const std::optional<TableEntry> join = waiting_join();
  if (table.size() == 0 && !join) return;
  StallInspector::Verdict verdict =
      stall_inspector.inspect(table, join ? &*join : nullptr, roster(), now);
  if (verdict.query) receive_stall_query(*verdict.query, now);
  if (verdict.report) {
    wire::StallReport report{verdict.report->substr(0, wire::Limits::kMaxTextBytes)};
    send_to_children(report);
    log(LogLevel::kWarning, report.text);
    ++stats.stall_reports;
  }
  if (verdict.give_up) {
    fail(wire::Fault{StatusCode::kTimeout, -1, "stalled beyond the limit: " + *verdict.give_up}, -1,
         now);
    return;
  }
  stall_deadline = verdict.deadline;
}

}  // namespace khorus::protocol
