// CollectiveRunner: runs one agreed, fused operation on the backend.
//
// A single tensor, and tensors that lie next to each other in memory, run in place or from input to
// output directly; others are packed one after the other into a fusion buffer. Both give the same
// sequence of elements, so ranks may differ in it. Average is a sum and a scaling; a scaling by 1
// is no pass over the data. An operation without elements does not reach the data plane, on any
// rank.
//
// Thread rule: who holds the lane's role; the counters from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "core/runtime/fusion_buffer.h"
#include "core/runtime/lane.h"
#include "core/runtime/scaling.h"
#include "core/runtime/timeline.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::runtime {

class CollectiveRunner {
 public:
  struct Options {
    const khorus_backend* backend = nullptr;
    khorus_comm* comm = nullptr;
    int rank = 0;  // in the group
    int size = 1;
    std::vector<int> ranks;  // global, by rank in the group
    uint64_t epoch = 0;
    size_t fusion_limit_bytes = 0;
    Timeline* timeline = nullptr;
  };
  explicit CollectiveRunner(const Options& options);

  // Blocks until this rank's outputs are complete. The works get their results but are not
  // finished. After an error nothing more may be run.
  Status run(const Job& job);

  uint64_t executed() const noexcept { return executed_.load(std::memory_order_relaxed); }
  uint64_t bytes_reduced() const noexcept { return bytes_reduced_.load(std::memory_order_relaxed); }

 private:
  // What the tensors of a job look like in memory, one after the other.
  struct Piece {
    const std::byte* input;
    std::byte* output;
    size_t bytes;
    size_t count;
  };

  Status run_allreduce(const Job& job);
  Status run_broadcast(const Job& job);
  Status run_allgather(const Job& job);
  Status run_fused_allgather(const Job& job, const std::vector<std::shared_ptr<void>>& outputs);
  // collective_runner_rows.cc
  Status run_adasum(const Job& job);
  Status run_alltoall(const Job& job);
  Status run_reducescatter(const Job& job);
  Status run_send_recv(const Job& job);
  Status run_on_backend(const Job& job, khorus_op op);

  void note_begin(const Job& job, std::string_view event);
  void note_end(const Job& job);
  khorus_op operation_of(const Job& job) const;
  int group_rank(int global_rank) const;
  static Status out_of_memory(const char* what, size_t bytes);
  static void apply(const Scaling& scaling, DataType dtype, void* data, size_t count);

  const Options options_;
  const std::string backend_event_;  // "GLOO_"
  FusionBuffer buffer_;
  FusionBuffer gather_buffer_;
  uint64_t sequence_ = 0;  // of the next backend operation
  std::atomic<uint64_t> executed_{0};
  std::atomic<uint64_t> bytes_reduced_{0};
};

}  // namespace khorus::runtime
