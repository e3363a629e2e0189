// Allreduce and reducescatter; see collectives.h.
#include <algorithm>
#include <cstring>

#include "backends/shm/collectives.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::shm {
namespace {

base::Reduction reduction_of(const khorus_op& op, size_t count) {
  return {static_cast<DataType>(op.dtype), static_cast<ReduceOp>(op.reduce_op), count};
}

size_t pieces_of(size_t count, size_t piece) { return (count + piece - 1) / piece; }

// What is reduced at once, so that it is still in the first caches when it is scaled.
constexpr size_t kBlockBytes = 64 * 1024;

void scale(const khorus_op& op, void* data, size_t count) {
  if (op.scale == 0.0 || op.scale == 1.0) return;
  base::scale(static_cast<DataType>(op.dtype), data, count, op.scale);
}

}  // namespace

void Collectives::allreduce(const khorus_op& op) {
  if (op.count == 0) return;
  const size_t bytes = op.count * width_of(op);
  if (ranks() > 1) return is_small(bytes) ? allreduce_small(op, bytes) : allreduce_large(op);
  const size_t block = layout_.piece_bytes() / width_of(op);
  for (size_t start = 0; start < op.count; start += block) {
    signals_.check();
    sources_[0] = input_at(op, start * width_of(op));
    const size_t count = std::min(block, op.count - start);
    base::reduce(reduction_of(op, count), output_at(op, start * width_of(op)), sources_);
    scale(op, output_at(op, start * width_of(op)), count);
  }
}

void Collectives::allreduce_small(const khorus_op& op, size_t bytes) {
  const size_t slot = put_small(op, op.input, bytes);
  signals_.wait_all(signals_.now());
  for (size_t r = 0; r < ranks(); ++r) sources_[r] = small_from(op, static_cast<int>(r), slot);
  base::reduce(reduction_of(op, op.count), op.output, sources_);
  scale(op, op.output, op.count);
}

void Collectives::allreduce_large(const khorus_op& op) {
  if (find_memory(op)) return allreduce_direct(op);
  allreduce_staged(op);
}

// One tick. What is read here is read again by nobody: all decide alike.
bool Collectives::find_memory(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t bytes = op.count * width;
  Place mine;
  if (op.input == op.output) mine = arenas_.place_of(op.output, bytes);
  const size_t set = next_place_;
  next_place_ ^= 1;
  signals_.wait_all(place_free_[set]);
  std::memcpy(own(layout_.place(set)), &mine, sizeof(mine));
  place_free_[set] = signals_.now() + 2;
  signals_.tick(signals_.now() + 1);
  signals_.wait_all(signals_.now());
  bool everywhere = mine.arena != 0;
  for_each_peer([&](int peer) {
    Place theirs;
    std::memcpy(&theirs, of(peer, layout_.place(set)), sizeof(theirs));
    arenas_.hear_of(peer, theirs);
    everywhere = everywhere && theirs.arena != 0;
    if (!everywhere) return;
    memory_[static_cast<size_t>(peer)] = arenas_.memory_of(peer, theirs, bytes, width);
  });
  return everywhere;
}

Collectives::Cut Collectives::cut_into_pieces(const khorus_op& op, size_t piece_bytes) {
  const size_t piece_elements = piece_bytes / width_of(op);
  return {.width = width_of(op),
          .count = op.count,
          .piece_elements = piece_elements,
          .pieces = pieces_of(op.count, piece_elements)};
}

// Nobody reads a rank's slice of its own memory before it has reduced it, and of a peer's slice
// only that peer reads anything, before it has reduced it. So all writes are to memory that nobody
// else looks at.
void Collectives::allreduce_direct(const khorus_op& op) {
  const Cut cut = cut_into_pieces(op, layout_.direct_piece_bytes());
  const uint64_t base = signals_.now();
  for (size_t piece = 0; piece < cut.pieces; ++piece) {
    signals_.check();
    reduce_direct(op, cut, piece);
    signals_.tick(base + piece + 1);
    if (piece > 0) collect_direct(op, cut, piece - 1, base + piece);
  }
  collect_direct(op, cut, cut.pieces - 1, base + cut.pieces);
  signals_.tick(base + cut.pieces + 1);
  signals_.wait_all(signals_.now());
}

void Collectives::reduce_direct(const khorus_op& op, const Cut& cut, size_t piece) {
  const Slice slice = slice_of(cut, piece, rank_);
  const size_t start = piece * cut.piece_elements * cut.width + slice.offset;
  const size_t block = kBlockBytes / cut.width;
  memory_[static_cast<size_t>(rank_)] = output_at(op, 0);
  for (size_t done = 0; done < slice.elements; done += block) {
    const size_t count = std::min(block, slice.elements - done);
    const size_t at = start + done * cut.width;
    for (size_t r = 0; r < ranks(); ++r) sources_[r] = memory_[r] + at;
    base::reduce(reduction_of(op, count), output_at(op, at), sources_);
    scale(op, output_at(op, at), count);
  }
}

void Collectives::collect_direct(const khorus_op& op, const Cut& cut, size_t piece,
                                 uint64_t reduced_at) {
  for_each_peer([&](int peer) {
    signals_.wait(peer, reduced_at);
    const Slice slice = slice_of(cut, piece, peer);
    if (slice.elements == 0) return;
    const size_t at = piece * cut.piece_elements * cut.width + slice.offset;
    std::memcpy(output_at(op, at), memory_[static_cast<size_t>(peer)] + at,
                slice.elements * cut.width);
  });
}

// Slices of piece k are copied after the tick of its reduction and before the next one, so a clock
// beyond that says that its rank is through with them.
void Collectives::allreduce_staged(const khorus_op& op) {
  const Cut cut = cut_into_pieces(op, layout_.piece_bytes());
  const auto put = [&](size_t piece, std::byte* to) { stage_slices(op, cut, piece, to); };
  for_each_piece(cut.pieces, put, [&](size_t piece, const Pace& pace) {
    signals_.wait_all(std::max(pace.staged(piece), result_free_[piece % 2]));
    reduce_slice(op, cut, piece);
    result_free_[piece % 2] = pace.done(piece) + 1;
    signals_.tick(pace.done(piece));
    collect_slices(op, cut, piece, pace.done(piece));
  });
}

// Whole cache lines, so that no line is written by one rank and read by another but for its data.
Collectives::Slice Collectives::slice_of(const Cut& cut, size_t piece, int rank) const {
  const size_t elements = std::min(cut.piece_elements, cut.count - piece * cut.piece_elements);
  const size_t line = Layout::kLine / cut.width;
  const size_t each = (pieces_of(elements, ranks()) + line - 1) / line * line;
  const size_t begin = std::min(static_cast<size_t>(rank) * each, elements);
  return {begin * cut.width, std::min(begin + each, elements) - begin};
}

void Collectives::stage_slices(const khorus_op& op, const Cut& cut, size_t piece,
                               std::byte* to) const {
  const std::byte* const from = input_at(op, piece * cut.piece_elements * cut.width);
  for_each_peer([&](int peer) {
    const Slice slice = slice_of(cut, piece, peer);
    if (slice.elements == 0) return;
    std::memcpy(to + slice.offset, from + slice.offset, slice.elements * cut.width);
  });
}

void Collectives::reduce_slice(const khorus_op& op, const Cut& cut, size_t piece) {
  const Slice slice = slice_of(cut, piece, rank_);
  if (slice.elements == 0) return;
  const size_t offset = piece * cut.piece_elements * cut.width + slice.offset;
  for (size_t r = 0; r < ranks(); ++r) {
    const int rank = static_cast<int>(r);
    sources_[r] =
        rank == rank_ ? input_at(op, offset) : of(rank, layout_.staging(piece % 2) + slice.offset);
  }
  std::byte* const result = own(layout_.result(piece % 2));
  base::reduce(reduction_of(op, slice.elements), result, sources_);
  scale(op, result, slice.elements);
  std::memcpy(output_at(op, offset), result, slice.elements * cut.width);
}

void Collectives::collect_slices(const khorus_op& op, const Cut& cut, size_t piece,
                                 uint64_t reduced_at) {
  for_each_peer([&](int peer) {
    signals_.wait(peer, reduced_at);
    const Slice slice = slice_of(cut, piece, peer);
    if (slice.elements == 0) return;
    std::memcpy(output_at(op, piece * cut.piece_elements * cut.width + slice.offset),
                of(peer, layout_.result(piece % 2)), slice.elements * cut.width);
  });
}

// Every rank's block is cut into pieces; piece k of all blocks is staged together.
void Collectives::reducescatter(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t largest = *std::max_element(op.counts, op.counts + ranks());
  if (largest == 0) return;
  const size_t line = Layout::kLine / width;
  const size_t piece_elements = layout_.piece_bytes() / ranks() / width / line * line;
  const Cut cut{.width = width,
                .count = op.counts[rank_],
                .piece_elements = piece_elements,
                .pieces = pieces_of(largest, piece_elements)};
  const auto put = [&](size_t piece, std::byte* to) { stage_blocks(op, cut, piece, to); };
  for_each_piece(cut.pieces, put, [&](size_t piece, const Pace& pace) {
    signals_.wait_all(pace.staged(piece));
    reduce_block(op, cut, piece);
    signals_.tick(pace.done(piece));
  });
}

void Collectives::stage_blocks(const khorus_op& op, const Cut& cut, size_t piece,
                               std::byte* to) const {
  const size_t start = piece * cut.piece_elements;
  size_t block = 0;  // elements before it
  for (size_t r = 0; r < ranks(); block += op.counts[r], ++r) {
    if (static_cast<int>(r) == rank_ || start >= op.counts[r]) continue;
    const size_t elements = std::min(cut.piece_elements, op.counts[r] - start);
    std::memcpy(to + r * cut.piece_elements * cut.width, input_at(op, (block + start) * cut.width),
                elements * cut.width);
  }
}

void Collectives::reduce_block(const khorus_op& op, const Cut& cut, size_t piece) {
  const size_t start = piece * cut.piece_elements;
  if (start >= cut.count) return;
  size_t block = 0;
  for (int r = 0; r < rank_; ++r) block += op.counts[r];
  const size_t mine = static_cast<size_t>(rank_) * cut.piece_elements * cut.width;
  for (size_t r = 0; r < ranks(); ++r) {
    const int rank = static_cast<int>(r);
    sources_[r] = rank == rank_ ? input_at(op, (block + start) * cut.width)
                                : of(rank, layout_.staging(piece % 2) + mine);
  }
  base::reduce(reduction_of(op, std::min(cut.piece_elements, cut.count - start)),
               output_at(op, start * cut.width), sources_);
}

}  // namespace khorus::backends::shm
