// Reducescatter, which is also the first half of a large allreduce; see collectives.h.
#include <algorithm>
#include <numeric>

#include "backends/gloo/collectives.h"
#include "backends/operation.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::gloo {
namespace {

base::Reduction reduction_of(const khorus_op& op, size_t count) {
  return {static_cast<DataType>(op.dtype), static_cast<ReduceOp>(op.reduce_op), count};
}

}  // namespace

void Collectives::reducescatter(const khorus_op& op) {
  const size_t bytes = op.count * width_of(op);
  if (bytes == 0) return;
  if (mesh_.size() > 1 && !is_small(bytes)) return reducescatter_large(op);
  if (mesh_.size() > 1) small_round(op, op.input, bytes);
  const size_t rank = static_cast<size_t>(mesh_.rank());
  const size_t before = std::accumulate(op.counts, op.counts + rank, size_t{0});
  reduce_small(op, before * width_of(op), op.counts[rank]);
}

void Collectives::reduce_small(const khorus_op& op, size_t offset, size_t count) {
  if (count == 0) return;
  std::vector<const void*> sources{input_at(op, offset)};
  if (mesh_.size() > 1) {
    sources.clear();
    const size_t bytes = op.count * width_of(op);
    for (int r = 0; r < mesh_.size(); ++r) sources.push_back(small_payload(r, bytes) + offset);
  }
  base::reduce(reduction_of(op, count), op.output, sources);
}

// Segment by segment: the n-th slice of everybody's block.
void Collectives::reducescatter_large(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t ranks = static_cast<size_t>(mesh_.size());
  const size_t most = slice_bytes() / width;
  const auto slices = [&](size_t segment) {
    Slices all;
    size_t block = 0;
    for (size_t r = 0; r < ranks; ++r) {
      const size_t done = std::min<size_t>(op.counts[r], segment * most);
      all.push_back({(block + done) * width, std::min<size_t>(op.counts[r] - done, most)});
      block += op.counts[r];
    }
    return all;
  };
  const size_t rank = static_cast<size_t>(mesh_.rank());
  const size_t longest = *std::max_element(op.counts, op.counts + ranks);
  const size_t segments = (longest + most - 1) / most;
  scatter(op, 0, slices(0));
  for (size_t segment = 0; segment < segments; ++segment) {
    // The next one travels while this one is reduced.
    if (segment + 1 < segments) scatter(op, segment + 1, slices(segment + 1));
    const Slice mine = slices(segment)[rank];
    if (mine.elements == 0) continue;  // the output may be null then
    reduce_slice(op, segment, mine, static_cast<std::byte*>(op.output) + segment * most * width);
  }
  for_each_peer([&](int peer) {
    const size_t theirs = op.counts[static_cast<size_t>(peer)];
    for (size_t sent = 0; sent < theirs; sent += most) mesh_.wait_send(peer, Lane::kScatter);
  });
}

// Large enough to pay for waking the threads that move it, small enough for several segments to be
// under way, and for two sets of received slices to stay within 16 MiB in groups of up to 128
// ranks.
size_t Collectives::slice_bytes() const {
  constexpr size_t kLeast = 64 * 1024;
  constexpr size_t kMost = 1024 * 1024;
  const size_t ranks = static_cast<size_t>(mesh_.size());
  return std::clamp(8 * 1024 * 1024 / ranks, kLeast, kMost) & ~size_t{63};
}

// Two sets of scratch slices are enough: when a segment is posted, those of the one before the last
// are reduced.
std::byte* Collectives::scratch(size_t segment, int peer) {
  const size_t ranks = static_cast<size_t>(mesh_.size());
  const size_t place = (segment % 2) * ranks + static_cast<size_t>(peer);
  return scratch_.data() + place * slice_bytes();
}

void Collectives::scatter(const khorus_op& op, size_t segment, const Slices& slices) {
  const size_t width = width_of(op);
  const Slice& mine = slices[static_cast<size_t>(mesh_.rank())];
  scratch_.resize(2 * slice_bytes() * slices.size());
  for_each_peer([&](int peer) {
    const Slice& theirs = slices[static_cast<size_t>(peer)];
    if (mine.elements > 0) {
      mesh_.recv(peer, Lane::kScatter, scratch(segment, peer), mine.elements * width);
    }
    if (theirs.elements > 0) {
      mesh_.send(peer, Lane::kScatter, input_at(op, theirs.offset), theirs.elements * width);
    }
  });
}

void Collectives::reduce_slice(const khorus_op& op, size_t segment, const Slice& mine,
                               void* destination) {
  std::vector<const void*> sources;
  for (int peer = 0; peer < mesh_.size(); ++peer) {
    const bool self = peer == mesh_.rank();
    if (!self) mesh_.wait_recv(peer, Lane::kScatter);
    sources.push_back(self ? input_at(op, mine.offset) : scratch(segment, peer));
  }
  base::reduce(reduction_of(op, mine.elements), destination, sources);
}

}  // namespace khorus::backends::gloo
