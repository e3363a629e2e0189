// The operations beyond torch.h's: alltoall, reducescatter, send and receive, join; process sets.
//
//   const auto evens = khorus::torch::add_process_set({0, 2});      // on every rank
//   if (evens.included()) allreduce(x, {.name = "x", .process_set = evens.process_set_id()});
//
// torch.h includes this at its end. Errors, names and threads are as there.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "khorus/torch.h"

namespace khorus::torch {

// Sends the first splits[0] rows to rank 0 of the set, the next splits[1] to rank 1, ... and
// returns what the others sent here, in rank order. `splits` adds up to the first extent; empty:
// equal parts.
struct AlltoallResult {
  Tensor output;
  std::vector<int64_t> received_splits;  // rows by rank
};
AlltoallResult alltoall(const Tensor& tensor, const std::vector<int64_t>& splits = {},
                        const CollectiveOptions& options = {});
// The rows received of each rank are works()[0]->first_extents().
Handle alltoall_async(const Tensor& tensor, const std::vector<int64_t>& splits = {},
                      const CollectiveOptions& options = {});
// `splits`: one list per tensor, or none at all.
std::vector<AlltoallResult> grouped_alltoall(const std::vector<Tensor>& tensors,
                                             const std::vector<std::vector<int64_t>>& splits = {},
                                             const CollectiveOptions& options = {});
GroupHandle grouped_alltoall_async(const std::vector<Tensor>& tensors,
                                   const std::vector<std::vector<int64_t>>& splits = {},
                                   const CollectiveOptions& options = {});

// As allreduce, of which every rank keeps its part of the rows, in rank order: if they cannot be
// divided evenly, the first ranks have one more.
Tensor reducescatter(const Tensor& tensor, const ReduceOptions& options = {});
Handle reducescatter_async(const Tensor& tensor, const ReduceOptions& options = {});
std::vector<Tensor> grouped_reducescatter(const std::vector<Tensor>& tensors,
                                          const ReduceOptions& options = {});
GroupHandle grouped_reducescatter_async(const std::vector<Tensor>& tensors,
                                        const ReduceOptions& options = {});

// One tensor from one rank to another. The k-th send to a rank with a tag meets the k-th recv there
// from this rank with that tag; dtype and shape agree. Peers are global ranks.
struct SendOptions {
  int tag = 0;
  ProcessSetId process_set = kGlobalProcessSet;
  Engine* engine = nullptr;
};
void send(const Tensor& tensor, int peer, const SendOptions& options = {});
Handle send_async(const Tensor& tensor, int peer, const SendOptions& options = {});
// Into `tensor`, which is also the result.
Tensor recv(const Tensor& tensor, int peer, const SendOptions& options = {});
Handle recv_async(const Tensor& tensor, int peer, const SendOptions& options = {});

// This rank has no more data: it takes part in the others' operations with zeros until every rank
// has joined. Returns the last rank that did. See Engine::join_async().
int join(Engine* engine = nullptr);

// Some of the ranks. A value: copies are the same set.
class ProcessSet {
 public:
  // Of a set that exists (kGlobalProcessSet: all ranks). Throws Error(InvalidArgument) otherwise.
  explicit ProcessSet(ProcessSetId id, Engine* engine = nullptr);

  ProcessSetId process_set_id() const noexcept { return id_; }
  const std::vector<int>& ranks() const noexcept { return ranks_; }  // global, ascending
  int size() const noexcept { return static_cast<int>(ranks_.size()); }
  int rank() const noexcept { return rank_; }  // of this process in the set; -1: not in it
  bool included() const noexcept { return rank_ >= 0; }

 private:
  ProcessSetId id_;
  std::vector<int> ranks_;
  int rank_ = -1;
};

// Collective over all ranks, with the same ranks everywhere.
ProcessSet add_process_set(const std::vector<int>& ranks, Engine* engine = nullptr);
void remove_process_set(const ProcessSet& process_set, Engine* engine = nullptr);

}  // namespace khorus::torch
