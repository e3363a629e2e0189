// Messages: what ranks say to each other on the control channel, as values.
//
// Plain structs without behaviour, bounded in every field (Limits). codec.h turns them into bytes
// and back; FORMAT.md documents the bytes. Everything here is pure: no thread, socket or clock.
//
// Reports travel up the control tree, decisions travel down; a fault floods both ways.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "core/wire/rank_set.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::wire {

struct Limits {
  static constexpr size_t kMaxFrameBytes = 64u << 20;
  // A sender starts another frame when the items so far take this much (size_bound() of codec.h).
  static constexpr size_t kFullFrameBytes = 16u << 20;
  static constexpr size_t kMaxNameBytes = 1024;
  static constexpr size_t kMaxTextBytes = 64u << 10;     // error and report texts
  static constexpr size_t kMaxPayloadBytes = 64u << 10;  // one rank's part of an exchange
  static constexpr size_t kMaxDimensions = 32;
  static constexpr size_t kMaxItems = 1u << 20;  // entries of any list
  static constexpr int32_t kMaxRanks = 1 << 20;
};

using Bytes = std::vector<std::byte>;

// What one rank asks for. Two ranks ask for the same when all fields are equal (of an allgather and
// an alltoall all but shape[0]).
struct Request {
  OpKind kind = OpKind::kAllreduce;
  DataType dtype = DataType::kFloat32;
  ReduceOp op = ReduceOp::kSum;
  DeviceKind device = DeviceKind::kCpu;
  ProcessSetId process_set = kGlobalProcessSet;
  int32_t root_rank = 0;  // broadcast; send/recv: who sends; else 0
  int32_t peer = -1;      // send/recv: who receives; else -1
  double prescale = 1.0;
  double postscale = 1.0;
  std::string name;
  // On the wire and in tables, shape[0] is 0 of an allgather (see extents) and of an alltoall.
  Shape shape;        // remove_process_set: the id alone
  std::string group;  // empty: not grouped
  uint32_t group_size = 0;
  RankSet members;  // add_process_set: the ranks of the new set; else empty
  bool operator==(const Request&) const = default;
};

// The same request by some ranks.
struct Contribution {
  Request request;
  RankSet ranks;
  // By rank, in ascending order of `ranks`: an allgather's first extent; an exchange's bytes.
  std::vector<int64_t> extents;
  std::vector<Bytes> payloads;
  bool operator==(const Contribution&) const = default;
};

// A request that the sender's response cache holds, by some ranks; of an allgather, with the
// extents as cached.
struct CachedContribution {
  uint64_t cache_id = 0;
  RankSet ranks;
  bool operator==(const CachedContribution&) const = default;
};

// Child to parent: what the child's subtree has newly submitted.
struct Report {
  uint64_t applied_sequence = 0;     // decisions the sender has applied: places cache ids in time
  std::vector<uint64_t> cached_all;  // cache ids that the sender's whole subtree has submitted
  std::vector<CachedContribution> cached_some;
  std::vector<Contribution> contributions;
  RankSet joined;              // ranks of the subtree that have newly joined
  std::string leaving_reason;  // not empty: a rank of the subtree has called shutdown()
  int32_t leaving_rank = -1;
  bool drained = false;  // the whole subtree has finished what was decided before the shutdown
  bool operator==(const Report&) const = default;
};

// One tensor of a response.
struct ResponseTensor {
  Request request;
  std::vector<int64_t> extents;  // allgather: by rank of the process set
  std::vector<Bytes> payloads;   // exchange: by rank of the process set
  bool operator==(const ResponseTensor&) const = default;
};

// What all ranks of the process set now do: one fused operation, or one error.
struct Response {
  StatusCode code = StatusCode::kOk;
  std::string error;                       // when code is not kOk
  std::vector<std::string> failed_groups;  // every pending tensor of these groups fails with it
  ProcessSetId process_set = kGlobalProcessSet;
  // One fused operation: kind, dtype, op, device, root and scales of all tensors are equal. Of an
  // error: the names that fail (request.name and process_set count).
  std::vector<ResponseTensor> tensors;
  // The same tensors as ids of the response cache, in order; on the wire instead of `tensors` when
  // all of them are cached. The receiver fills `tensors` from its cache.
  std::vector<uint64_t> cache_ids;
  bool operator==(const Response&) const = default;
};

// Root to all: identical on every rank, numbered from 1 without gaps.
struct Decision {
  uint64_t sequence = 0;
  std::vector<Response> responses;
  bool shutdown = false;  // nothing new will be decided: run what was decided, then report drained
  std::string shutdown_reason;
  bool goodbye = false;  // all ranks have drained: close
  bool operator==(const Decision&) const = default;
};

// Any direction: the epoch is over.
struct Fault {
  StatusCode code = StatusCode::kPeerLost;
  int32_t rank = -1;  // who is lost, or whose data plane failed
  std::string reason;
  bool operator==(const Fault&) const = default;
};

// Root to all: who of `ranks` is there, and what did it submit last? One number per question.
struct StallQuery {
  uint64_t number = 0;
  RankSet ranks;
  bool operator==(const StallQuery&) const = default;
};

struct StallAnswer {
  uint64_t number = 0;
  int32_t rank = 0;
  std::string last_submitted;  // "allreduce \"layers.0.weight\"", empty: nothing yet
  int64_t last_submitted_ago_ms = -1;
  uint64_t submitted = 0;  // operations since the engine was made
  uint64_t waiting = 0;    // of them not done
  bool operator==(const StallAnswer&) const = default;
};

// Root to all: a stall in words, to be logged.
struct StallReport {
  std::string text;
  bool operator==(const StallReport&) const = default;
};

using Message = std::variant<Report, Decision, Fault, StallQuery, StallAnswer, StallReport>;

// What travels: a message of an epoch. A frame of another epoch is dropped by the receiver.
struct Frame {
  uint64_t epoch = 0;
  Message message;
  bool operator==(const Frame&) const = default;
};

}  // namespace khorus::wire
