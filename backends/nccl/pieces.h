// Operations on several tensors, as operations on one memory.
//
// Tensors that lie side by side are one memory already. Others are copied on the device's stream to
// its staging memory and back, one copy for each; the next operation's copies come after these in
// the stream, so all operations share the memory.
//
// Thread rule: the thread that runs the operations. REQUIRES that the device's context is current.
#pragma once

#include "backends/nccl/device.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

inline bool is_in_pieces(const khorus_op& op) {
  return op.struct_size >= sizeof(khorus_op) && op.piece_count > 0;
}

// REQUIRES: is_in_pieces(op). The same operation on one memory, which holds what the rank (of the
// group) puts in.
Result<khorus_op> pack(Device& device, const khorus_op& op, int rank);
// After it: the pieces get what came of it.
Status unpack(Device& device, const khorus_op& op, const khorus_op& packed, int rank);

}  // namespace khorus::backends::nccl
