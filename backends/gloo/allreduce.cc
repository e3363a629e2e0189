// Allreduce; see collectives.h.
#include <algorithm>

#include "backends/gloo/collectives.h"
#include "backends/operation.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::gloo {
namespace {}  // namespace

void Collectives::allreduce(const khorus_op& op) {
  const size_t bytes = op.count * width_of(op);
  if (bytes == 0) return;
  if (mesh_.size() > 1 && !is_small(bytes)) return allreduce_large(op);
  if (mesh_.size() > 1) small_round(op, op.input, bytes);
  reduce_small(op, 0, op.count);
}

Collectives::Slice Collectives::Cut::slice(size_t segment, int rank) const {
  const size_t start = segment * segment_elements;
  const size_t elements = std::min(segment_elements, count - start);
  const size_t r = static_cast<size_t>(rank);
  const size_t each = elements / ranks;
  const size_t extra = elements % ranks;  // the first ranks get one more
  return {(start + r * each + std::min(r, extra)) * width, each + (r < extra ? 1 : 0)};
}

Collectives::Slices Collectives::Cut::slices(size_t segment) const {
  Slices all;
  for (size_t r = 0; r < ranks; ++r) all.push_back(slice(segment, static_cast<int>(r)));
  return all;
}

void Collectives::allreduce_large(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t ranks = static_cast<size_t>(mesh_.size());
  const size_t segment_elements = slice_bytes() / width * ranks;
  const Cut cut{.width = width,
                .count = op.count,
                .segment_elements = segment_elements,
                .segments = (op.count + segment_elements - 1) / segment_elements,
                .ranks = ranks};
  post_segment(op, cut, 0);
  for (size_t segment = 0; segment < cut.segments; ++segment) {
    // The next one travels while this one is reduced.
    if (segment + 1 < cut.segments) post_segment(op, cut, segment + 1);
    reduce_segment(op, cut, segment);
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

// Receives are posted before the data is due, so that no sender has to wait for one. A reduced
// slice may be received into memory that is still being sent when the operation is in place: its
// owner sends it only after it has received what we send.
void Collectives::post_segment(const khorus_op& op, const Cut& cut, size_t segment) {
  const Slices slices = cut.slices(segment);
  for_each_peer([&](int peer) {
    const Slice& theirs = slices[static_cast<size_t>(peer)];
    if (theirs.elements == 0) return;
    mesh_.recv(peer, Lane::kGather, output_at(op, theirs.offset), theirs.elements * cut.width);
  });
  scatter(op, segment, slices);
}

void Collectives::reduce_segment(const khorus_op& op, const Cut& cut, size_t segment) {
  const Slice mine = cut.slice(segment, mesh_.rank());
  if (mine.elements == 0) return;
  std::byte* reduced = output_at(op, mine.offset);
  reduce_slice(op, segment, mine, reduced);
  for_each_peer(
      [&](int peer) { mesh_.send(peer, Lane::kGather, reduced, mine.elements * cut.width); });
}

}  // namespace khorus::backends::gloo
