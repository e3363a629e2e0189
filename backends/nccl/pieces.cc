// See pieces.h.
#include "backends/nccl/pieces.h"

#include <algorithm>

#include "backends/operation.h"

namespace khorus::backends::nccl {
namespace {

bool are_adjacent(const khorus_op& op) {
  const size_t width = width_of(op);
  for (uint64_t i = 1; i < op.piece_count; ++i) {
    const khorus_piece& before = op.pieces[i - 1];
    const khorus_piece& piece = op.pieces[i];
    const size_t bytes = before.count * width;
    if (piece.input != static_cast<const std::byte*>(before.input) + bytes ||
        piece.output != static_cast<std::byte*>(before.output) + bytes) {
      return false;
    }
  }
  return true;
}

bool is_sum_of_floats(const khorus_op& op) {
  return static_cast<ReduceOp>(op.reduce_op) == ReduceOp::kSum &&
         is_float(static_cast<DataType>(op.dtype));
}

double factor_of(double scale) { return scale == 0.0 ? 1.0 : scale; }

// Moves the pieces to staging memory and back.
Status stage(Device& device, const khorus_op& op, int rank, Packed* packed) {
  const Result<std::byte*> staging = device.staging(op.count * width_of(op));
  if (!staging) return staging.status();
  packed->op.input = packed->op.output = *staging;
  const bool is_broadcast = kind_of(op) == OpKind::kBroadcast;
  const bool is_root = is_broadcast && op.root == rank;
  packed->in.moves.reserve(op.piece_count);
  packed->out.moves.reserve(op.piece_count);
  std::byte* at = *staging;
  for (uint64_t i = 0; i < op.piece_count; ++i) {
    const khorus_piece& piece = op.pieces[i];
    const size_t bytes = piece.count * width_of(op);
    if (!is_broadcast || is_root) packed->in.add(at, piece.input, bytes);
    packed->out.add(piece.output, is_root ? piece.input : at, bytes);
    at += bytes;
  }
  return {};
}

// Scales one memory where it lies, or on the way to where the operation may write.
Status scale_in_place(Device& device, int rank, Packed* packed) {
  khorus_op& op = packed->op;
  const bool is_scattered = kind_of(op) == OpKind::kReducescatter;
  if (packed->in.is_scaled()) {
    const size_t bytes = op.count * width_of(op);
    const Result<std::byte*> scaled = is_scattered ? device.staging(bytes) : output_at(op, 0);
    if (!scaled) return scaled.status();
    packed->in.add(*scaled, op.input, bytes);
    op.input = *scaled;
  }
  const size_t reduced = is_scattered ? op.counts[rank] : op.count;
  if (packed->out.is_scaled()) packed->out.add(op.output, op.output, reduced * width_of(op));
  return {};
}

}  // namespace

Result<Packed> pack(Device& device, const khorus_op& op, const PackOptions& options) {
  Packed packed{.op = op};
  packed.op.pieces = nullptr;
  packed.op.piece_count = 0;
  packed.in.dtype = packed.out.dtype = static_cast<DataType>(op.dtype);
  if (!options.keeps_sums_scaled || !is_sum_of_floats(op)) {
    packed.in.scaling.factor = factor_of(op.scale);
    packed.op.scale = 0;
  }
  packed.out.scaling = {factor_of(op.scale_after), std::max(op.divisor, 1)};
  const bool are_apart = is_in_pieces(op) && !are_adjacent(op);
  if (is_in_pieces(op) && !are_apart) {
    packed.op.input = op.pieces[0].input;
    packed.op.output = op.pieces[0].output;
  }
  const Status status = are_apart ? stage(device, op, options.rank, &packed)
                                  : scale_in_place(device, options.rank, &packed);
  if (!status.ok()) return status;
  return packed;
}

}  // namespace khorus::backends::nccl
