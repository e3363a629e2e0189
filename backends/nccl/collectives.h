// The operations of the nccl backend as calls of NCCL's, all on the device's stream.
//
// What NCCL has goes to it as it is. What it has not is made of what it has: ragged blocks of
// grouped broadcasts, reductions to one rank, sends and receives (as in PyTorch's
// ProcessGroupNCCL); bool is uint8 with min or max; and int16, which it does not reduce, is
// gathered in pieces and reduced by a function on the host that the stream calls. A sum with a
// scale is NCCL's sum of premultiplied floats (as its own average is).
//
// Thread rule: the thread that runs the operations. REQUIRES that the device's context is current.
#pragma once

#include <cstddef>
#include <functional>

#include "backends/nccl/adasum.h"
#include "backends/nccl/clique.h"
#include "backends/nccl/device.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

// Whether every rank's contribution is to be multiplied, by op.scale.
inline bool is_scaled(const khorus_op& op) { return op.scale != 0.0 && op.scale != 1.0; }

class Collectives {
 public:
  // `kernels`: null where there are none.
  Collectives(Device& device, Clique& clique, const Module* kernels, int rank, int size)
      : device_(device),
        clique_(clique),
        adasum_(device, clique, kernels, rank, size),
        rank_(rank),
        size_(static_cast<size_t>(size)) {}

  // Returns when the operation is in the stream.
  Status run(const khorus_op& op);

 private:
  Status allreduce(const khorus_op& op);
  Status broadcast(const khorus_op& op);
  Status allgather(const khorus_op& op);
  Status alltoall(const khorus_op& op);
  Status reducescatter(const khorus_op& op);
  // Calls `reduce` with the reduction, in a group.
  using Reduce = std::function<ncclResult_t(const Library&, ncclComm_t, ncclRedOp_t)>;
  Status submit_reduction(const khorus_op& op, const Reduce& reduce);
  Status sendrecv(const khorus_op& op);
  Status allreduce_on_host(const khorus_op& op);
  Status reducescatter_on_host(const khorus_op& op);
  // Reduces the `count` elements that each rank's piece in the scratch memory has, into `to`.
  Status reduce_scratch(const khorus_op& op, size_t piece_bytes, size_t count, std::byte* to);
  // As memmove().
  Status move(std::byte* to, const std::byte* from, size_t bytes);
  // Bytes of every rank's piece of the scratch memory, a multiple of every type's size.
  size_t piece_bytes() const { return Device::kScratchBytes / size_ / 64 * 64; }

  Device& device_;
  Clique& clique_;
  Adasum adasum_;
  const int rank_;
  const size_t size_;
};

}  // namespace khorus::backends::nccl
