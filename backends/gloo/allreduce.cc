// Allreduce; see collectives.h.
#include <algorithm>

#include "backends/gloo/collectives.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::gloo {
namespace {

// Bytes of a segment that each rank reduces: large enough to pay for waking the threads that move
// it, small enough for several segments to be under way, and for two sets of received slices to
// stay within 16 MiB in groups of up to 128 ranks.
size_t slice_bytes(size_t ranks) {
  constexpr size_t kLeast = 64 * 1024;
  constexpr size_t kMost = 1024 * 1024;
  return std::clamp(8 * 1024 * 1024 / ranks, kLeast, kMost) & ~size_t{63};
}

base::Reduction reduction_of(const khorus_op& op, size_t count) {
  return {static_cast<DataType>(op.dtype), static_cast<ReduceOp>(op.reduce_op), count};
}

const std::byte* input_at(const khorus_op& op, size_t bytes) {
  return static_cast<const std::byte*>(op.input) + bytes;
}
std::byte* output_at(const khorus_op& op, size_t bytes) {
  return static_cast<std::byte*>(op.output) + bytes;
}

}  // namespace

void Collectives::allreduce(const khorus_op& op) {
  if (op.count == 0) return;
  const size_t bytes = op.count * element_size(static_cast<DataType>(op.dtype));
  if (mesh_.size() > 1 && !is_small(bytes)) return allreduce_large(op);
  std::vector<const void*> sources{op.input};
  if (mesh_.size() > 1) {
    small_round(op, op.input, bytes);
    sources.clear();
    for (int r = 0; r < mesh_.size(); ++r) sources.push_back(small_payload(r));
  }
  base::reduce(reduction_of(op, op.count), op.output, sources);
}

Collectives::Cut::Slice Collectives::Cut::slice(size_t segment, int rank) const {
  const size_t start = segment * segment_elements;
  const size_t elements = std::min(segment_elements, count - start);
  const size_t r = static_cast<size_t>(rank);
  const size_t each = elements / ranks;
  const size_t extra = elements % ranks;  // the first ranks get one more
  return {(start + r * each + std::min(r, extra)) * width, each + (r < extra ? 1 : 0)};
}

void Collectives::allreduce_large(const khorus_op& op) {
  const size_t width = element_size(static_cast<DataType>(op.dtype));
  const size_t ranks = static_cast<size_t>(mesh_.size());
  const size_t segment_elements = slice_bytes(ranks) / width * ranks;
  const Cut cut{.width = width,
                .count = op.count,
                .segment_elements = segment_elements,
                .segments = (op.count + segment_elements - 1) / segment_elements,
                .ranks = ranks};
  scratch_.resize(2 * slice_bytes(ranks) * ranks);
  const uint64_t tag = mesh_.take_tags(cut.segments);
  post_segment(op, cut, 0, tag);
  for (size_t segment = 0; segment < cut.segments; ++segment) {
    // The next one travels while this one is reduced. Two sets of scratch slices are enough: those
    // of the segment before are reduced by now.
    if (segment + 1 < cut.segments) post_segment(op, cut, segment + 1, tag);
    reduce_segment(op, cut, segment, tag);
  }
  for_each_peer([&](int peer) {
    for (size_t segment = 0; segment < cut.segments; ++segment) {
      const bool theirs = cut.slice(segment, peer).elements > 0;
      if (theirs) mesh_.wait_send(peer, Lane::kScatter);
      if (theirs) mesh_.wait_recv(peer, Lane::kGather);
      if (cut.slice(segment, mesh_.rank()).elements > 0) mesh_.wait_send(peer, Lane::kGather);
    }
  });
}

std::byte* Collectives::scratch(const Cut& cut, size_t segment, int peer) {
  return scratch_.data() +
         ((segment % 2) * cut.ranks + static_cast<size_t>(peer)) * slice_bytes(cut.ranks);
}

// Receives are posted before the data is due, so that no sender has to wait for one. A reduced
// slice may be received into memory that is still being sent when the operation is in place: its
// owner sends it only after it has received what we send.
void Collectives::post_segment(const khorus_op& op, const Cut& cut, size_t segment, uint64_t tag) {
  const Cut::Slice mine = cut.slice(segment, mesh_.rank());
  for_each_peer([&](int peer) {
    const Cut::Slice theirs = cut.slice(segment, peer);
    if (mine.elements > 0) {
      mesh_.recv(peer, Lane::kScatter, 2 * (tag + segment), scratch(cut, segment, peer),
                 mine.elements * cut.width);
    }
    if (theirs.elements > 0) {
      mesh_.recv(peer, Lane::kGather, 2 * (tag + segment) + 1, output_at(op, theirs.offset),
                 theirs.elements * cut.width);
      mesh_.send(peer, Lane::kScatter, 2 * (tag + segment), input_at(op, theirs.offset),
                 theirs.elements * cut.width);
    }
  });
}

void Collectives::reduce_segment(const khorus_op& op, const Cut& cut, size_t segment,
                                 uint64_t tag) {
  const Cut::Slice mine = cut.slice(segment, mesh_.rank());
  if (mine.elements == 0) return;
  std::vector<const void*> sources;
  for (int peer = 0; peer < mesh_.size(); ++peer) {
    const bool self = peer == mesh_.rank();
    if (!self) mesh_.wait_recv(peer, Lane::kScatter);
    sources.push_back(self ? input_at(op, mine.offset) : scratch(cut, segment, peer));
  }
  std::byte* reduced = output_at(op, mine.offset);
  base::reduce(reduction_of(op, mine.elements), reduced, sources);
  for_each_peer([&](int peer) {
    mesh_.send(peer, Lane::kGather, 2 * (tag + segment) + 1, reduced, mine.elements * cut.width);
  });
}

}  // namespace khorus::backends::gloo
