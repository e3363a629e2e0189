// What an operation on a backend begins with, on the CPU and on a device.
//
// Thread rule: pure functions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/wire/message.h"
#include "khorus/backend.h"
#include "khorus/types.h"

namespace khorus::runtime {

// The place of a rank of the world among `ranks`, which ascend.
inline int group_rank(const std::vector<int>& ranks, int global_rank) {
  return static_cast<int>(std::lower_bound(ranks.begin(), ranks.end(), global_rank) -
                          ranks.begin());
}

// Everything but the memory, the counts and the sequence.
inline khorus_op operation_of(const wire::Request& request, const std::vector<int>& ranks,
                              uint64_t epoch) {
  khorus_op op{};
  op.struct_size = sizeof op;
  op.kind = static_cast<uint8_t>(request.kind);
  op.dtype = static_cast<uint8_t>(request.dtype);
  op.reduce_op =
      static_cast<uint8_t>(request.op == ReduceOp::kAverage ? ReduceOp::kSum : request.op);
  op.device = static_cast<uint8_t>(request.device);
  op.root = request.kind == OpKind::kBroadcast ? group_rank(ranks, request.root_rank) : 0;
  op.epoch = epoch;
  return op;
}

}  // namespace khorus::runtime
