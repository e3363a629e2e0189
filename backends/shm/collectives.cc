// Small operations, allgather, broadcast, and what the operations share; see collectives.h.
#include "backends/shm/collectives.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "backends/shm/failure.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::shm {

// What a small contribution begins with: enough to notice that two ranks run different operations.
struct Collectives::SmallHeader {
  uint64_t sequence;
  uint64_t count;
  int32_t root;
  uint8_t kind;
  uint8_t dtype;
  uint8_t reduce_op;
  uint8_t unused;
};

namespace {

// Bytes that a rank reads in the one step of a small operation, at most.
constexpr size_t kSmallStepBytes = 64 * 1024;
// Bytes copied between two looks at whether this rank was aborted.
constexpr size_t kCopyBytes = 1024 * 1024;

template <class Header>
Header header_of(const khorus_op& op) {
  const OpKind kind = static_cast<OpKind>(op.kind);
  const bool reduces = kind == OpKind::kAllreduce || kind == OpKind::kReducescatter;
  return {.sequence = op.sequence,
          // The counts of an allgather differ by rank.
          .count = kind == OpKind::kAllgather ? 0 : op.count,
          .root = kind == OpKind::kBroadcast ? op.root : 0,
          .kind = op.kind,
          .dtype = op.dtype,
          .reduce_op = reduces ? op.reduce_op : uint8_t{0},
          .unused = 0};
}

// The bytes may come from a peer that writes garbage.
template <class Header>
std::string describe(const Header& header) {
  if (header.kind >= kOpKindCount || header.dtype >= kDataTypeCount ||
      header.reduce_op >= kReduceOpCount) {
    return "something unknown";
  }
  return std::string(to_string(static_cast<OpKind>(header.kind))) + " of " +
         std::to_string(header.count) + " " +
         std::string(to_string(static_cast<DataType>(header.dtype))) + " (" +
         std::string(to_string(static_cast<ReduceOp>(header.reduce_op))) + "), sequence " +
         std::to_string(header.sequence);
}

}  // namespace

Collectives::Collectives(int rank, const Layout& layout, const std::vector<std::byte*>& segments,
                         Signals& signals, Arenas& arenas)
    : rank_(rank),
      layout_(layout),
      segments_(segments),
      signals_(signals),
      arenas_(arenas),
      posted_(segments.size(), 0),
      taken_(segments.size(), 0),
      sources_(segments.size()),
      memory_(segments.size()) {}

void Collectives::run(const khorus_op& op) {
  switch (static_cast<OpKind>(op.kind)) {
    case OpKind::kAllreduce:
      return allreduce(op);
    case OpKind::kAllgather:
      return allgather(op);
    case OpKind::kBroadcast:
      return broadcast(op);
    case OpKind::kAlltoall:
      return alltoall(op);
    case OpKind::kReducescatter:
      return reducescatter(op);
    case OpKind::kSendRecv:
      return sendrecv(op);
    default:  // not supported: never asked for
      return;
  }
}

bool Collectives::is_small(size_t bytes) const {
  return bytes <= Layout::kSlotBytes - sizeof(SmallHeader) &&
         bytes * (ranks() - 1) <= kSmallStepBytes;
}

// One tick. The others read the slot until they tick for the first time in a later operation.
size_t Collectives::put_small(const khorus_op& op, const void* data, size_t bytes) {
  const size_t slot = next_slot_;
  next_slot_ ^= 1;
  signals_.wait_all(slot_free_[slot]);
  const SmallHeader header = header_of<SmallHeader>(op);
  std::byte* const to = own(layout_.slot(slot));
  std::memcpy(to, &header, sizeof(header));
  if (bytes > 0) std::memcpy(to + sizeof(header), data, bytes);
  slot_free_[slot] = signals_.now() + 2;
  signals_.tick(signals_.now() + 1);
  return slot;
}

const std::byte* Collectives::small_from(const khorus_op& op, int rank, size_t slot) const {
  const std::byte* const from = of(rank, layout_.slot(slot));
  SmallHeader theirs;
  std::memcpy(&theirs, from, sizeof(theirs));
  const SmallHeader mine = header_of<SmallHeader>(op);
  if (std::memcmp(&theirs, &mine, sizeof(mine)) != 0) {
    throw Failure(Failure::Cause::kMismatch, rank,
                  "it runs " + describe(theirs) + " while this rank runs " + describe(mine) +
                      "; all ranks of a group run the same operations in the same order");
  }
  return from + sizeof(SmallHeader);
}

std::byte* Collectives::stage(size_t piece, uint64_t free_at) {
  const size_t set = piece % 2;
  signals_.wait_all(staging_free_[set]);
  staging_free_[set] = free_at;
  return own(layout_.staging(set));
}

void Collectives::copy(void* destination, const void* source, size_t bytes) const {
  if (destination == source) return;
  for (size_t done = 0; done < bytes; done += kCopyBytes) {
    signals_.check();
    std::memcpy(static_cast<std::byte*>(destination) + done,
                static_cast<const std::byte*>(source) + done, std::min(kCopyBytes, bytes - done));
  }
}

void Collectives::allgather(const khorus_op& op) {
  const size_t width = width_of(op);
  size_t before = 0, total = 0, largest = 0;
  for (size_t r = 0; r < ranks(); ++r) {
    if (r == static_cast<size_t>(rank_)) before = total;
    total += op.counts[r];
    largest = std::max<size_t>(largest, op.counts[r]);
  }
  if (total == 0) return;
  // The own block goes to its place first and is staged from there: so the input may lie anywhere,
  // also inside the output.
  std::byte* const mine = output_at(op, before * width);
  const size_t bytes = op.count * width;
  if (bytes > 0 && mine != op.input) std::memmove(mine, op.input, bytes);
  if (ranks() == 1) return;
  if (!is_small(largest * width)) return allgather_large(op, largest);

  const size_t slot = put_small(op, mine, bytes);
  const uint64_t put_at = signals_.now();
  size_t offset = 0;
  for (size_t r = 0; r < ranks(); ++r) {
    const int rank = static_cast<int>(r);
    const size_t theirs = op.counts[r] * width;
    if (rank != rank_) {
      signals_.wait(rank, put_at);
      const std::byte* const from = small_from(op, rank, slot);
      if (theirs > 0) std::memcpy(output_at(op, offset), from, theirs);
    }
    offset += theirs;
  }
}

void Collectives::allgather_large(const khorus_op& op, size_t largest) {
  const size_t width = width_of(op);
  const size_t whole = layout_.piece_bytes() / width * width;
  const size_t pieces = (largest * width + whole - 1) / whole;
  std::vector<size_t> offsets{0};
  for (size_t r = 0; r < ranks(); ++r) offsets.push_back(offsets.back() + op.counts[r] * width);
  const auto part = [&](int rank, size_t piece) {
    const size_t r = static_cast<size_t>(rank);
    const size_t begin = std::min(offsets[r] + piece * whole, offsets[r + 1]);
    return std::span(output_at(op, begin), std::min(whole, offsets[r + 1] - begin));
  };
  const auto put = [&](size_t piece, std::byte* to) {
    const std::span<std::byte> mine = part(rank_, piece);
    if (!mine.empty()) std::memcpy(to, mine.data(), mine.size());
  };
  for_each_piece(pieces, put, [&](size_t piece, const Pace& pace) {
    for_each_peer([&](int peer) {
      signals_.wait(peer, pace.staged(piece));
      const std::span<std::byte> theirs = part(peer, piece);
      if (theirs.empty()) return;
      std::memcpy(theirs.data(), of(peer, layout_.staging(piece % 2)), theirs.size());
    });
    signals_.tick(pace.done(piece));
  });
}

// Piece k is staged when the root ticks k + 1, and read when the others do.
void Collectives::broadcast(const khorus_op& op) {
  const size_t bytes = op.count * width_of(op);
  if (bytes == 0) return;
  const bool root = rank_ == op.root;
  if (root) copy(op.output, op.input, bytes);
  if (ranks() == 1) return;
  if (is_small(bytes)) return broadcast_small(op, bytes);
  const size_t whole = layout_.piece_bytes();
  const uint64_t base = signals_.now();
  for (size_t piece = 0; piece * whole < bytes; ++piece) {
    const size_t begin = piece * whole;
    const size_t size = std::min(whole, bytes - begin);
    if (root) {
      std::memcpy(stage(piece, base + piece + 1), input_at(op, begin), size);
    } else {
      signals_.wait(op.root, base + piece + 1);
      std::memcpy(output_at(op, begin), of(op.root, layout_.staging(piece % 2)), size);
    }
    signals_.tick(base + piece + 1);
  }
}

void Collectives::broadcast_small(const khorus_op& op, size_t bytes) {
  if (rank_ == op.root) {
    put_small(op, op.input, bytes);
    return;
  }
  const size_t slot = next_slot_;
  next_slot_ ^= 1;
  const uint64_t put_at = signals_.now() + 1;
  signals_.tick(put_at);
  signals_.wait(op.root, put_at);
  std::memcpy(op.output, small_from(op, op.root, slot), bytes);
}

}  // namespace khorus::backends::shm
