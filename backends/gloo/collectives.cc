// Allgather, broadcast, and what the operations share; see collectives.h.
#include "backends/gloo/collectives.h"

#include "backends/operation.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "khorus/types.h"

namespace khorus::backends::gloo {
namespace {

// What a small message begins with: enough to notice that two ranks run different operations.
struct SmallHeader {
  uint64_t sequence;
  uint32_t count;
  uint8_t kind;
  uint8_t dtype;
  uint8_t reduce_op;
  uint8_t unused;
};
static_assert(sizeof(SmallHeader) == 16, "the payload keeps its alignment");

// Bytes that all small messages of one round may add up to, by sender.
constexpr size_t kSmallRoundBytes = 64 * 1024;
constexpr size_t kBroadcastPieceBytes = 1024 * 1024;

SmallHeader header_of(const khorus_op& op) {
  // The counts of an allgather differ by rank.
  const bool same_count = static_cast<OpKind>(op.kind) != OpKind::kAllgather;
  return {.sequence = op.sequence,
          .count = same_count ? static_cast<uint32_t>(op.count) : 0,
          .kind = op.kind,
          .dtype = op.dtype,
          .reduce_op = op.reduce_op,
          .unused = 0};
}

std::string describe(const SmallHeader& header) {
  return std::string(to_string(static_cast<OpKind>(header.kind))) + " of " +
         std::to_string(header.count) + " " +
         std::string(to_string(static_cast<DataType>(header.dtype))) + ", sequence " +
         std::to_string(header.sequence);
}

}  // namespace

bool Collectives::is_small(size_t bytes) const {
  const size_t others = static_cast<size_t>(mesh_.size() - 1);
  return bytes <= Mesh::kSmallBytes - sizeof(SmallHeader) && bytes * others <= kSmallRoundBytes;
}

void Collectives::small_round(const khorus_op& op, const void* data, size_t bytes) {
  const SmallHeader mine = header_of(op);
  std::byte* message = mesh_.small_message(sizeof(mine) + bytes).data();
  std::memcpy(message, &mine, sizeof(mine));
  if (bytes > 0) std::memcpy(message + sizeof(mine), data, bytes);
  mesh_.exchange_small();
  for (int r = 0; r < mesh_.size(); ++r) {
    SmallHeader theirs{};
    const std::span<const std::byte> received = mesh_.small_from(r);
    std::memcpy(&theirs, received.data(), std::min(sizeof(theirs), received.size()));
    if (std::memcmp(&theirs, &mine, sizeof(mine)) != 0) {
      throw Failure(r, false,
                    "runs " + describe(theirs) + " while this rank runs " + describe(mine) +
                        "; all ranks of a group run the same operations "
                        "in the same order");
    }
  }
}

const std::byte* Collectives::small_payload(int rank, size_t bytes) {
  const std::span<const std::byte> message = mesh_.small_from(rank);
  if (message.size() != sizeof(SmallHeader) + bytes) {
    throw Failure(rank, false,
                  "sent " + std::to_string(message.size()) + " bytes, not " +
                      std::to_string(sizeof(SmallHeader) + bytes));
  }
  return message.data() + sizeof(SmallHeader);
}

void Collectives::allgather(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t size = static_cast<size_t>(mesh_.size());
  std::vector<size_t> offsets{0};
  for (size_t r = 0; r < size; ++r) offsets.push_back(offsets.back() + op.counts[r] * width);
  if (offsets.back() == 0) return;
  const auto block = [&](int r) {
    const size_t i = static_cast<size_t>(r);
    return std::span(static_cast<std::byte*>(op.output) + offsets[i], offsets[i + 1] - offsets[i]);
  };
  // The own block goes to its place first and is sent from there: so the input may lie anywhere,
  // also inside the output.
  const std::span<std::byte> mine = block(mesh_.rank());
  if (!mine.empty()) std::memmove(mine.data(), op.input, mine.size());
  if (size == 1) return;

  const size_t largest = *std::max_element(op.counts, op.counts + size) * width;
  if (is_small(largest)) {
    small_round(op, mine.data(), mine.size());
    for (int r = 0; r < mesh_.size(); ++r) {
      const std::span<std::byte> theirs = block(r);
      if (r != mesh_.rank() && !theirs.empty()) {
        std::memcpy(theirs.data(), small_payload(r, theirs.size()), theirs.size());
      }
    }
    return;
  }
  for_each_peer([&](int peer) { post_recv(peer, block(peer)); });
  for_each_peer([&](int peer) { post_send(peer, mine); });
  for_each_peer([&](int peer) { wait_both(peer, block(peer).size(), mine.size()); });
}

// A binomial tree: with ranks counted from the root, v receives from v without its highest bit and
// sends to v + 2^k for every 2^k above v.
void Collectives::broadcast(const khorus_op& op) {
  const size_t bytes = op.count * width_of(op);
  if (bytes == 0) return;
  const int size = mesh_.size();
  const int position = (mesh_.rank() - op.root + size) % size;
  const auto rank_at = [&](int v) { return (v + op.root) % size; };
  if (position == 0 && op.output != op.input) std::memcpy(op.output, op.input, bytes);

  const std::span<std::byte> data(static_cast<std::byte*>(op.output), bytes);
  const int above = static_cast<int>(std::bit_ceil(static_cast<unsigned>(position) + 1));
  const int parent = rank_at(position - above / 2);
  std::vector<int> children;
  for (int step = above; position + step < size; step *= 2) {
    children.push_back(rank_at(position + step));
  }
  // Larger subtrees first: they take longer.
  std::reverse(children.begin(), children.end());
  if (position != 0) {
    for_each_piece(data, kBroadcastPieceBytes, [&](std::span<std::byte> piece) {
      mesh_.recv(parent, Lane::kGather, piece.data(), piece.size());
    });
  }
  for_each_piece(data, kBroadcastPieceBytes, [&](std::span<std::byte> piece) {
    if (position != 0) mesh_.wait_recv(parent, Lane::kGather);
    for (const int child : children) {
      mesh_.send(child, Lane::kGather, piece.data(), piece.size());
    }
  });
  for (const int child : children) {
    for_each_piece(data, kBroadcastPieceBytes,
                   [&](std::span<std::byte>) { mesh_.wait_send(child, Lane::kGather); });
  }
}

}  // namespace khorus::backends::gloo
