// Node: the whole protocol of one rank, as a pure state machine.
//
// Every rank has a Node: it keeps the rank's own pending operations and response cache, gathers
// what its subtree of the control tree has submitted, and applies the decisions that come down. The
// Node of the root (rank 0 of the epoch) also decides: it validates, orders and fuses what all
// ranks have submitted.
//
// Pure: no thread, mutex, socket, clock or environment. Time is an argument, in microseconds of any
// monotonic clock. Inputs change state only; what follows from them comes out of tick(). So the
// engine drives one Node over real sockets and tests/sim drives thousands over a seeded network.
//
// Thread rule: none of its own; one thread at a time (in the engine: the coordinator thread).
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/wire/message.h"
#include "khorus/options.h"
#include "khorus/status.h"

namespace khorus::protocol {

using TimeUs = int64_t;
inline constexpr TimeUs kNever = std::numeric_limits<TimeUs>::max();

// Whether the root says at the end of a job whom the others waited for.
enum class StragglerReport : uint8_t { kOff, kWhenNoteworthy, kAlways };

struct NodeOptions {
  int rank = 0;
  int size = 1;
  uint64_t epoch = 0;
  int fan_in = 8;                             // children per node of the control tree
  int64_t fusion_threshold_bytes = 64 << 20;  // of one fused response
  TimeUs flush_window_us = 1000;         // longest wait of a ready tensor for others to fuse with
  int max_in_flight = 2;                 // responses on the root's data plane before it waits
  size_t cache_capacity = 4096;          // tensors; 0: no cache
  TimeUs stall_warning_us = 60'000'000;  // 0: no stall inspector
  TimeUs stall_shutdown_us = 0;          // 0: never
  StragglerReport straggler_report = StragglerReport::kWhenNoteworthy;
};

// Who a rank is, for messages. By rank; may be empty until known.
struct PeerInfo {
  std::string host;
  int64_t pid = 0;
};

// One operation of this rank. `ticket` is the caller's own number, not 0, never used twice. A join
// stands alone; until it is over this rank submits nothing else.
struct Submission {
  uint64_t ticket = 0;
  wire::Request request;  // of an allgather or alltoall, shape[0] is this rank's first extent
  wire::Bytes payload;    // of an exchange
};

// An agreed operation to be run on the data plane, in the order given, by every member of its
// process set, or the two of a send/recv.
struct Execution {
  uint64_t sequence = 0;  // of the decision
  uint32_t index = 0;     // of the response in it
  wire::Response response;
  // This rank's, by tensor of the response; 0: this rank has joined and takes part with zeros.
  std::vector<uint64_t> tickets;
  uint64_t first_position = 0;  // of the first tensor in the order of all agreed operations
  // A send/recv of two other ranks, the first operation of a set of this rank on a device: there
  // the set has no communicator yet, and all its ranks have to be there when it is made. Nothing
  // else is to be done, and there are no tickets.
  bool meets_only = false;
};

// An operation that is over without the data plane: an error, a barrier, an exchange, ...
struct Completion {
  uint64_t ticket = 0;
  Status status;
  std::vector<wire::Bytes> payloads;  // exchange: by rank of the process set
  uint64_t position = 0;              // in the order of all agreed operations; 0: not agreed
  int64_t value = -1;                 // join: the last rank; add_process_set: the id
};

// A process set that this rank is in came to be, or is no more.
struct SetChange {
  ProcessSetId id = 0;
  bool added = false;
  wire::RankSet members;
};

// The root has heard that these ranks submitted this operation.
struct Arrival {
  std::string name;
  wire::RankSet ranks;
};

struct LogLine {
  LogLevel level = LogLevel::kInfo;
  std::string text;
};

struct Output {
  std::vector<std::pair<int, wire::Frame>> frames;  // to neighbours, in order
  std::vector<SetChange> set_changes;  // of sets added: before their executions, of removed: after
  std::vector<Execution> executions;
  std::vector<Completion> completions;
  std::vector<uint64_t> agreed_rounds;  // sequences of the decisions applied now (for CYCLE_START)
  std::vector<Arrival> arrivals;        // only at the root, and while watched
  std::vector<LogLine> log;
  bool waited_for = false;  // the root asked what this rank is doing, for others wait for it
  // Set once. After shutdown: run what was given, then call drained(). After a fault: abort the
  // data plane; every ticket has had, or has in this Output, its Completion, but for executions.
  bool shutdown = false;
  Status shutdown_status;
  std::optional<Status> fault;
  bool goodbye = false;  // all ranks have drained: close the channel
};

struct NodeStats {
  uint64_t submitted = 0;
  uint64_t submitted_from_cache = 0;
  uint64_t decisions = 0;
  uint64_t cached_tensors = 0;  // now in the cache
  uint64_t stall_reports = 0;
};

class Node {
 public:
  explicit Node(const NodeOptions& options);
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // The neighbours in the control tree: who frames go to and come from. parent() is -1 at the root.
  int parent() const noexcept;
  const std::vector<int>& children() const noexcept;

  void set_peers(std::vector<PeerInfo> peers);
  // At the root, where fusion is decided; elsewhere without effect.
  void set_fusion(int64_t threshold_bytes, TimeUs window_us);
  void watch_arrivals(bool watch);

  // One operation, or the members of one group (submitted as one, all or nothing).
  void submit(std::vector<Submission> submissions, TimeUs now);
  // A frame from a neighbour. One that no correct neighbour sends is a fault of this epoch.
  void receive(int from, const wire::Frame& frame, TimeUs now);
  // The connection to a neighbour has ended. Expected after goodbye, else the neighbour is lost.
  void peer_closed(int peer, const std::string& reason, TimeUs now);
  // `count` executions of this rank have left the data plane.
  void executions_finished(int count, TimeUs now);
  // The data plane of this rank failed: ends the epoch on all ranks.
  void data_plane_failed(const Status& status, TimeUs now);
  // shutdown() was called on this rank.
  void leave(const std::string& reason, TimeUs now);
  // After Output::shutdown: everything given to this rank has been run.
  void drained(TimeUs now);

  // Everything that follows from the inputs so far and from the time.
  Output tick(TimeUs now);
  // When tick() is due even without input; kNever: not at all.
  TimeUs next_deadline() const noexcept;

  // A digest of the response cache and of the decisions applied: equal on all ranks that have
  // applied the same number of decisions.
  uint64_t state_digest() const noexcept;
  uint64_t applied_sequence() const noexcept;
  const NodeStats& stats() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace khorus::protocol
