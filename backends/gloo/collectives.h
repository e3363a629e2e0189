// The collective operations over a Mesh.
//
// Written here rather than taken from Gloo because Gloo's own cannot be interrupted, round 16-bit
// floats at every hop, and sum in an order that depends on the rank. These sum in rank order like
// the local backend, to the same bits:
//   - small allreduce and allgather: everybody sends all to everybody and reduces for itself; one
//     message time;
//   - large allreduce: reduce-scatter, then allgather, both directly between all pairs, in segments
//     so that the two overlap. Each rank sends and receives 2 (n-1)/n of the data, as little as a
//     ring does (Thakur, Rabenseifner, Gropp, 2005), and 16-bit floats travel as 16 bits but are
//     summed in float32 and rounded once;
//   - large allgather: directly between all pairs;
//   - broadcast: a binomial tree, in segments.
// Thread rule: the mesh's. Blocking; throws Failure.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backends/gloo/mesh.h"
#include "khorus/backend.h"

namespace khorus::backends::gloo {

class Collectives {
 public:
  // The mesh must outlive this.
  explicit Collectives(Mesh& mesh) : mesh_(mesh) {}

  void allreduce(const khorus_op& op);
  void allgather(const khorus_op& op);
  void broadcast(const khorus_op& op);

 private:
  // What one large allreduce cuts the data into.
  struct Cut {
    size_t width;             // bytes per element
    size_t count;             // elements in all
    size_t segment_elements;  // of a whole segment
    size_t segments;
    size_t ranks;
    struct Slice {
      size_t offset;  // bytes from the start of the data
      size_t elements;
    };
    // The part of a segment that `rank` reduces.
    Slice slice(size_t segment, int rank) const;
  };

  bool is_small(size_t bytes) const;
  // Everybody's `bytes` (which may differ by rank) to everybody. Throws if another rank is running
  // something else.
  void small_round(const khorus_op& op, const void* data, size_t bytes);
  // What `rank` sent in the last small_round().
  const std::byte* small_payload(int rank) const;
  void allreduce_large(const khorus_op& op);
  void post_segment(const khorus_op& op, const Cut& cut, size_t segment, uint64_t tag);
  void reduce_segment(const khorus_op& op, const Cut& cut, size_t segment, uint64_t tag);
  std::byte* scratch(const Cut& cut, size_t segment, int peer);

  template <class Function>
  void for_each_peer(Function&& function) const {
    for (int peer = 0; peer < mesh_.size(); ++peer) {
      if (peer != mesh_.rank()) function(peer);
    }
  }
  // function(index, piece) for pieces of at most `piece_bytes`; none if there are no bytes.
  template <class Function>
  static void for_each_piece(std::span<std::byte> bytes, size_t piece_bytes, Function&& function) {
    for (size_t i = 0; i * piece_bytes < bytes.size(); ++i) {
      const size_t start = i * piece_bytes;
      function(i, bytes.subspan(start, std::min(piece_bytes, bytes.size() - start)));
    }
  }

  Mesh& mesh_;
  std::vector<std::byte> scratch_;  // received slices of two segments
};

}  // namespace khorus::backends::gloo
