// See pieces.h.
#include "backends/nccl/pieces.h"

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

// Whether this rank's input matters.
bool puts_in(const khorus_op& op, int rank) {
  return kind_of(op) != OpKind::kBroadcast || op.root == rank;
}

}  // namespace

Result<khorus_op> pack(Device& device, const khorus_op& op, int rank) {
  khorus_op packed = op;
  packed.pieces = nullptr;
  packed.piece_count = 0;
  if (are_adjacent(op)) {
    packed.input = op.pieces[0].input;
    packed.output = op.pieces[0].output;
    return packed;
  }
  const Result<std::byte*> staging = device.staging(op.count * width_of(op));
  if (!staging) return staging.status();
  packed.input = packed.output = *staging;
  std::byte* at = *staging;
  for (uint64_t i = 0; i < op.piece_count && puts_in(op, rank); ++i) {
    const size_t bytes = op.pieces[i].count * width_of(op);
    Status status = device.copy(at, op.pieces[i].input, bytes);
    if (!status.ok()) return status;
    at += bytes;
  }
  return packed;
}

Status unpack(Device& device, const khorus_op& op, const khorus_op& packed, int rank) {
  if (are_adjacent(op)) return {};
  const std::byte* at = output_at(packed, 0);
  const bool is_root = kind_of(op) == OpKind::kBroadcast && puts_in(op, rank);
  for (uint64_t i = 0; i < op.piece_count; ++i) {
    const khorus_piece& piece = op.pieces[i];
    const size_t bytes = piece.count * width_of(op);
    const void* const from = is_root ? piece.input : at;
    if (Status status = device.copy(piece.output, from, bytes); !status.ok()) return status;
    at += bytes;
  }
  return {};
}

}  // namespace khorus::backends::nccl
