// Engine: one rank. It negotiates, fuses and runs collective operations in the background.
//
// An Engine is an object: N ranks may live in one process as N engines (see InProcessWorld). The
// free functions of khorus.h use one default engine.
//
// Thread rule: every method may be called from any thread of the process that made the engine, also
// from several at once. In a forked child every method fails with Unavailable.
//
// Names: an operation is matched across ranks by its name. With an empty name Khorus makes one from
// the operation, its attributes and its position in the sequence of unnamed operations of that kind
// on this rank; such operations must therefore be submitted in the same order on all ranks.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "khorus/export.h"
#include "khorus/options.h"
#include "khorus/status.h"
#include "khorus/types.h"
#include "khorus/work.h"

namespace khorus {

struct AllreduceOptions {  // also of reducescatter
  ReduceOp op = ReduceOp::kAverage;
  double prescale = 1.0;   // multiplies every element before the reduction
  double postscale = 1.0;  // and after it
  ProcessSetId process_set = kGlobalProcessSet;
};

// One member of a grouped operation.
struct NamedTensor {
  std::string name;
  TensorView input;
  TensorView output;  // may be the input: in place
};

// Counters since the engine was made. All are totals for this rank.
struct EngineStats {
  uint64_t control_messages_sent = 0;
  uint64_t control_bytes_sent = 0;
  uint64_t control_messages_received = 0;
  uint64_t control_bytes_received = 0;
  uint64_t operations_submitted = 0;
  uint64_t operations_done = 0;
  uint64_t responses_executed = 0;  // fused operations that reached the data plane
  uint64_t tensors_from_cache = 0;  // submitted as a cache id instead of a full request
  uint64_t bytes_reduced = 0;
};

class KHORUS_API Engine {
 public:
  // Meets the other ranks, authenticates, chooses the backend, starts the threads. Blocks until all
  // ranks are there or `start_timeout_s` is over (Timeout names the ranks that did not come).
  static Result<std::unique_ptr<Engine>> create(const EngineOptions& options);

  // As shutdown().
  virtual ~Engine() = default;

  // Ends the job's communication on every rank as soon as one rank calls it. What the ranks have
  // agreed on by then is run to its end; every other operation is done with Shutdown, also one that
  // all ranks have submitted but rank 0 has not heard of from all: wait for what matters first.
  // Returns when all ranks have drained or `shutdown_timeout_s` is over. Idempotent. Never called
  // by Khorus itself except by ~Engine.
  virtual void shutdown() = 0;

  virtual const Place& place() const noexcept = 0;
  int rank() const noexcept { return place().rank; }
  int size() const noexcept { return place().size; }

  // Ok while operations can be submitted; else why not (PeerLost, Aborted, Shutdown).
  virtual Status health() const = 0;
  // "gloo", "local", ...
  virtual const std::string& backend_name() const noexcept = 0;
  virtual EngineStats stats() const = 0;

  // At least `bytes` of memory, aligned to 64 bytes and zeroed, for tensors that the set's ranks
  // will reduce. What lies there is reduced without a copy where the backend can (shm), and tensors
  // that are submitted together and lie next to each other are not packed. Never less than ordinary
  // memory; null when there is none. It belongs to who holds it, and outlives shutdown(); a forked
  // child must not touch it. Ranks need not agree on what lies where.
  virtual std::shared_ptr<void> allocate(size_t bytes,
                                         ProcessSetId process_set = kGlobalProcessSet) = 0;
  // The same on a device, this rank's: memory of the backend that reduces there, zeroed. Null when
  // there is none, or before the set's first operation on device tensors has been launched: only
  // then the ranks have met there. Whoever frees it has seen the device done with it.
  virtual std::shared_ptr<void> allocate_on_device(
      size_t bytes, ProcessSetId process_set = kGlobalProcessSet) = 0;

  // All of these return at once. A wrong argument gives a Work that is done with InvalidArgument
  // or DuplicateName, and nothing was sent. `input` and `output` must stay valid until the Work is
  // done (or be kept alive by their owner); output may be the input.

  // Elementwise reduction over the ranks. Same dtype, shape and options on every rank. Average of
  // integers is scaled in float64 and truncated toward zero; bool knows Sum and Max (or), Product
  // and Min (and). float16 and bfloat16 accumulate in float32.
  virtual WorkPtr allreduce_async(const std::string& name, const TensorView& input,
                                  const TensorView& output, const AllreduceOptions& options) = 0;

  // As allreduce of each member; all members run, or none: an error of one is an error of all.
  // `group` names the group; empty: made from the members' names.
  virtual std::vector<WorkPtr> grouped_allreduce_async(const std::string& group,
                                                       const std::vector<NamedTensor>& members,
                                                       const AllreduceOptions& options) = 0;

  // Concatenation along the first dimension, which may differ by rank and may be 0; the other
  // dimensions and the dtype agree. Scalars count as shape [1]. See Work::result().
  virtual WorkPtr allgather_async(const std::string& name, const TensorView& input,
                                  ProcessSetId process_set = kGlobalProcessSet) = 0;
  virtual std::vector<WorkPtr> grouped_allgather_async(
      const std::string& group, const std::vector<NamedTensor>& members,
      ProcessSetId process_set = kGlobalProcessSet) = 0;

  // `output` of every rank becomes the root's `input`. Same dtype, shape and root on every rank.
  virtual WorkPtr broadcast_async(const std::string& name, const TensorView& input,
                                  const TensorView& output, int root_rank,
                                  ProcessSetId process_set = kGlobalProcessSet) = 0;
  virtual std::vector<WorkPtr> grouped_broadcast_async(
      const std::string& group, const std::vector<NamedTensor>& members, int root_rank,
      ProcessSetId process_set = kGlobalProcessSet) = 0;

  // Sends the first splits[0] rows of `input` to rank 0 of the set, the next splits[1] to rank 1,
  // ... and receives the others' rows in rank order: see Work::result() and Work::first_extents().
  // `splits` adds up to the first extent; empty: equal parts (the first extent is then a multiple
  // of the set's size). The dtype and the other dimensions agree.
  virtual WorkPtr alltoall_async(const std::string& name, const TensorView& input,
                                 const std::vector<int64_t>& splits = {},
                                 ProcessSetId process_set = kGlobalProcessSet) = 0;
  // `splits`: one list per member, or none at all.
  virtual std::vector<WorkPtr> grouped_alltoall_async(
      const std::string& group, const std::vector<NamedTensor>& members,
      const std::vector<std::vector<int64_t>>& splits = {},
      ProcessSetId process_set = kGlobalProcessSet) = 0;

  // Reduces as allreduce does and leaves each rank its part of the rows, in rank order; if they
  // cannot be divided evenly the first ranks get one more. See Work::result(). Scalars are refused.
  // Not for kAdasum.
  virtual WorkPtr reducescatter_async(const std::string& name, const TensorView& input,
                                      const AllreduceOptions& options) = 0;
  virtual std::vector<WorkPtr> grouped_reducescatter_async(const std::string& group,
                                                           const std::vector<NamedTensor>& members,
                                                           const AllreduceOptions& options) = 0;

  // One tensor from one rank to another (global ranks, both in the set, not equal). The k-th send
  // to a rank with a tag meets the k-th recv from there with that tag, whatever happens on other
  // ranks; dtype and shape agree. At most 64 of one direction and tag may be under way at a time.
  virtual WorkPtr send_async(const TensorView& input, int peer, int tag = 0,
                             ProcessSetId process_set = kGlobalProcessSet) = 0;
  virtual WorkPtr recv_async(const TensorView& output, int peer, int tag = 0,
                             ProcessSetId process_set = kGlobalProcessSet) = 0;

  // Says that this rank has no more data: until every rank has joined, it takes part in the others'
  // allreduces and reducescatters with zeros (kAverage still divides by the set's size) and in
  // their allgathers, alltoalls and barriers with nothing. Done when all have joined;
  // Work::last_joined() says who was last. Not with kMin, kMax, kProduct, kAdasum, nor as the root
  // of a broadcast or the peer of a send or recv: those fail on the ranks that submitted them.
  virtual WorkPtr join_async() = 0;

  // Process sets: some of the ranks, for operations of their own that run beside those of other
  // sets. Both calls are collective over all ranks, block, and take the same argument everywhere.
  // `ranks` are global, ascending, without doubles, at least one. Returns the id: equal on all
  // ranks, never used again. add_process_set() returns when the set's ranks are connected. While
  // some rank has joined, both are refused.
  virtual Result<ProcessSetId> add_process_set(const std::vector<int>& ranks) = 0;
  // Operations of the set that are not agreed by now end with InvalidArgument; on GPUs also an
  // agreed one whose ranks still have to tell each other something: the first one there, and an
  // alltoall.
  virtual Status remove_process_set(ProcessSetId id) = 0;
  // InvalidArgument if there is no such set.
  virtual Result<std::vector<int>> process_set_ranks(ProcessSetId id) const = 0;

  // Done when every rank has submitted it.
  virtual WorkPtr barrier_async(const std::string& name = "",
                                ProcessSetId process_set = kGlobalProcessSet) = 0;

  // Starts and stops the Chrome-trace timeline at run time (see Config::timeline).
  virtual Status start_timeline(const std::string& path, bool mark_cycles = false) = 0;
  virtual Status stop_timeline() = 0;

  // Counters, gauges and histograms of this rank in the text format of Prometheus, as they are now
  // (see Config::metrics_file); empty in a forked child.
  virtual std::string metrics_text() const = 0;
  // Writes the last operations of this rank to `path`, as JSON with the key names of torch's flight
  // recorder (see Config::flight_recorder_path). The file appears whole or not at all.
  virtual Status dump_flight_recorder(const std::string& path) const = 0;
};

}  // namespace khorus
