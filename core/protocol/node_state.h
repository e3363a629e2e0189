// Node::State: what a Node knows. Internal to node.cc, node_input.cc and node_apply.cc.
//
// Inputs land in node_input.cc, decisions and faults are applied in node_apply.cc, and tick() in
// node.cc makes frames of what has gathered.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/protocol/coordinator.h"
#include "core/protocol/node.h"
#include "core/protocol/process_sets.h"
#include "core/protocol/request_table.h"
#include "core/protocol/response_cache.h"
#include "core/protocol/roster.h"
#include "core/protocol/stall_inspector.h"
#include "core/protocol/straggler_watch.h"
#include "core/protocol/tensor_key.h"
#include "core/protocol/topology.h"

namespace khorus::protocol {

struct Node::State {
  explicit State(const NodeOptions& node_options);

  // ---- what this rank is ----
  NodeOptions options;
  Topology topology;
  ProcessSets sets;
  std::vector<PeerInfo> peers;
  bool is_root() const { return topology.parent() < 0; }

  // ---- this rank's own operations ----
  struct Pending {
    uint64_t ticket = 0;
    OpKind kind = OpKind::kAllreduce;
    uint64_t signature = 0;  // of the request as it was submitted
    std::string group;
  };
  std::unordered_map<TensorKey, Pending, TensorKeyHash> pending;
  std::string last_submitted;
  TimeUs last_submitted_at = 0;

  // ---- the subtree ----
  struct Child {
    int rank = 0;
    wire::RankSet subtree;
    uint64_t applied_sequence = 0;
    bool drained = false;
    bool closed = false;
  };
  std::vector<Child> children;
  RequestTable table;
  ResponseCache cache;
  std::vector<TensorKey> to_pass_on;  // complete in this subtree, since the last tick
  TimeUs hold_us = kNever;            // longest an incomplete entry is kept from the parent
  TimeUs next_hold = kNever;          // when the oldest such entry is due
  size_t report_bytes = 0;            // of the report that is being made
  wire::RankSet joined;               // ranks of the subtree that have
  wire::RankSet newly_joined;         // not reported to the parent yet
  TimeUs last_activity = 0;           // at the root: submitted, joined or run by some rank
  int leaving_rank = -1;              // a rank of the subtree that has called shutdown()
  std::string leaving_reason;
  bool leaving_reported = false;
  // Groups that failed lately: what a child says of them without having applied that decision is
  // about operations that are over already.
  struct FailedGroup {
    uint64_t sequence = 0;
    ProcessSetId process_set = 0;
    std::string group;
  };
  std::deque<FailedGroup> failed_groups;

  // ---- decisions ----
  uint64_t applied = 0;
  uint64_t agreed_operations = 0;  // of all process sets: the same number on every rank
  uint64_t history_digest = 0;
  std::optional<Coordinator> coordinator;  // at the root
  StallInspector stall_inspector;
  StragglerWatch stragglers;
  bool watch_arrivals = false;
  int in_flight = 0;  // executions given out and not finished
  TimeUs flush_deadline = kNever;
  TimeUs stall_deadline = kNever;

  // ---- the end ----
  bool shutting_down = false;
  bool self_drained = false;
  bool drained_reported = false;
  bool goodbye = false;
  Status broken;  // not ok: shut down or faulted; what later submissions get
  bool faulted = false;

  Output out;  // of the next tick
  NodeStats stats;

  // node_input.cc
  void submit(std::vector<Submission> submissions, TimeUs now);
  void add_contribution(wire::Contribution contribution, TimeUs now);
  void add_joined(const wire::RankSet& ranks, int speaker, TimeUs now);
  Status refusal_of(const wire::Request& request) const;
  void receive_report(Child& child, const wire::Report& report, TimeUs now);
  void receive_from_parent(const wire::Frame& frame, TimeUs now);
  void receive_from_child(Child& child, const wire::Frame& frame, TimeUs now);
  void receive_stall_query(const wire::StallQuery& query, TimeUs now);
  void receive_stall_answer(const wire::StallAnswer& answer, TimeUs now);
  Child* find_child(int rank);

  // node_apply.cc
  void apply(wire::Decision decision, TimeUs now);
  void apply_response(wire::Response response, uint32_t index, bool cached);
  void give_out(Execution execution, wire::Response response);
  void apply_error(const wire::Response& response);
  void apply_control(const wire::Response& response, std::vector<uint64_t> tickets,
                     uint64_t first_position);
  Status remove_process_set(int64_t id);
  std::string malformation(const wire::Response& response) const;
  std::string objection(const wire::Response& response) const;
  void begin_shutdown(const std::string& reason);
  void fail(const wire::Fault& fault, int source, TimeUs now);
  void violation(int peer, const std::string& what, TimeUs now);
  void complete_all_pending(const Status& status);
  void forget_what_children_know();

  // node.cc
  void pass_on(wire::Report* news);
  void pass_on_overdue(wire::Report* news, TimeUs now);
  void report(const TableEntry& entry, const wire::RankSet& ranks, wire::Report* news);
  void report_to_parent(TimeUs now);
  void decide(TimeUs now);
  void inspect_stalls(TimeUs now);
  std::optional<TableEntry> waiting_join() const;
  Roster roster() const { return {peers, sets}; }
  bool subtree_drained() const;
  void send(int peer, wire::Message message);
  void send_to_children(const wire::Message& message);
  void log(LogLevel level, std::string text);
};

}  // namespace khorus::protocol
