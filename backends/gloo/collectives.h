// The collective operations over a Mesh.
//
// Written here rather than taken from Gloo because Gloo's own cannot be interrupted, round 16-bit
// floats at every hop, and sum in an order that depends on the rank. These sum in rank order like
// the local backend, to the same bits:
//   - small allreduce, reducescatter and allgather: everybody sends all to everybody and reduces
//   for
//     itself; one message time;
//   - large allreduce: reduce-scatter, then allgather, both directly between all pairs, in segments
//     so that the two overlap. Each rank sends and receives 2 (n-1)/n of the data, as little as a
//     ring does (Thakur, Rabenseifner, Gropp, 2005), and 16-bit floats travel as 16 bits but are
//     summed in float32 and rounded once;
//   - large reducescatter: the first half of that, with the blocks as they are asked for;
//   - large allgather, alltoall: directly between all pairs;
//   - broadcast: a binomial tree, in segments;
//   - send/recv: between the two ranks. The others know nothing of it.
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
  void alltoall(const khorus_op& op);
  void reducescatter(const khorus_op& op);
  void sendrecv(const khorus_op& op);

 private:
  // A part of the data that one rank reduces.
  struct Slice {
    size_t offset = 0;  // bytes from the start of the input
    size_t elements = 0;
  };
  using Slices = std::vector<Slice>;  // by the rank that reduces

  // What one large allreduce cuts the data into.
  struct Cut {
    size_t width;             // bytes per element
    size_t count;             // elements in all
    size_t segment_elements;  // of a whole segment
    size_t segments;
    size_t ranks;
    // The part of a segment that `rank` reduces.
    Slice slice(size_t segment, int rank) const;
    Slices slices(size_t segment) const;
  };

  bool is_small(size_t bytes) const;
  // Everybody's `bytes` (which may differ by rank) to everybody. Throws if another rank is running
  // something else.
  void small_round(const khorus_op& op, const void* data, size_t bytes);
  // What `rank` sent in the last small_round(), which must be `bytes`.
  const std::byte* small_payload(int rank, size_t bytes);
  // `count` elements from `offset` bytes on of what everybody sent in it, reduced.
  void reduce_small(const khorus_op& op, size_t offset, size_t count);

  void allreduce_large(const khorus_op& op);
  void post_segment(const khorus_op& op, const Cut& cut, size_t segment);
  void reduce_segment(const khorus_op& op, const Cut& cut, size_t segment);
  void reducescatter_large(const khorus_op& op);

  // Most bytes of one slice of a segment.
  size_t slice_bytes() const;
  std::byte* scratch(size_t segment, int peer);
  // Starts to send everyone its slice of this rank's input, and to receive everyone's values of the
  // slice that this rank reduces. Two segments may be under way.
  void scatter(const khorus_op& op, size_t segment, const Slices& slices);
  // Waits for those values and stores them, reduced with this rank's own in rank order.
  void reduce_slice(const khorus_op& op, size_t segment, const Slice& mine, void* destination);

  // Start to move a block of any size on the gather lane, and wait until it has been.
  void post_recv(int peer, std::span<std::byte> block);
  void post_send(int peer, std::span<const std::byte> block);
  void wait_both(int peer, size_t received_bytes, size_t sent_bytes);

  template <class Function>
  void for_each_peer(Function&& function) const {
    for (int peer = 0; peer < mesh_.size(); ++peer) {
      if (peer != mesh_.rank()) function(peer);
    }
  }
  // function(piece) for pieces of at most `piece_bytes`; none if there are no bytes.
  template <class Byte, class Function>
  static void for_each_piece(std::span<Byte> bytes, size_t piece_bytes, Function&& function) {
    for (size_t start = 0; start < bytes.size(); start += piece_bytes) {
      function(bytes.subspan(start, std::min(piece_bytes, bytes.size() - start)));
    }
  }

  Mesh& mesh_;
  std::vector<std::byte> scratch_;  // received slices of two segments
};

}  // namespace khorus::backends::gloo
