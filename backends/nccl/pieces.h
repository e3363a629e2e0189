// Operations on several tensors, and those that are scaled, as plain operations on one memory.
//
// Tensors that lie side by side are one memory already. Others are moved on the device's stream to
// its staging memory and back (mover.h), and scaled on the way; the next operation's moves come
// after these in the stream, so all operations share the memory. What need not be moved is scaled
// where it lies.
//
// Thread rule: the thread that runs the operations. REQUIRES that the device's context is current.
#pragma once

#include "backends/nccl/device.h"
#include "backends/nccl/mover.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

inline bool is_in_pieces(const khorus_op& op) {
  return op.struct_size >= sizeof(khorus_op) && op.piece_count > 0;
}

struct Packed {
  MoveList in = {};  // comes before
  khorus_op op;
  MoveList out = {};  // comes after
};

struct PackOptions {
  int rank;  // in the group
  // Sums of floats keep their `scale`: the one that all ranks take part in multiplies.
  bool keeps_sums_scaled;
};
Result<Packed> pack(Device& device, const khorus_op& op, const PackOptions& options);

}  // namespace khorus::backends::nccl
