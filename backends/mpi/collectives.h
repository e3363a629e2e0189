// The operations of the mpi backend, as rounds of bounded messages between all ranks.
//
// Every element is reduced by one rank, in rank order, with core/base/reduce.h, and the result goes
// to all: the bits are those of `local`. MPI's own collectives are not used: they combine in an
// order of their own, know no bfloat16, and do not say which rank they wait for.
//
// allreduce and broadcast work on blocks of one slice per rank. In one round a slice goes to the
// rank that owns it, in the next its owner sends it on to everybody; the second round of a block
// and the first of the next one share their messages. That moves 2n bytes per rank, which is
// optimal (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
// workstations", 2009). What fits in one message per peer goes to everybody in one round.
//
// Thread rule: that of Mesh.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "backends/mpi/mesh.h"
#include "khorus/backend.h"

namespace khorus::backends::mpi {

class Collectives {
 public:
  explicit Collectives(Mesh& mesh);

  // Throws what Mesh::round() throws.
  void run(const khorus_op& op);

 private:
  // Memory towards or from one rank, in bytes.
  struct Block {
    const std::byte* from = nullptr;
    size_t send = 0;
    std::byte* to = nullptr;
    size_t receive = 0;
  };
  // One slice of one block, in elements of the whole array.
  struct Slice {
    size_t begin = 0;
    size_t count = 0;
  };
  class Blocks;

  void allreduce(const khorus_op& op);
  void small_allreduce(const khorus_op& op);
  void broadcast(const khorus_op& op);
  void small_broadcast(const khorus_op& op);
  void allgather(const khorus_op& op);
  void alltoall(const khorus_op& op);
  void reducescatter(const khorus_op& op);
  void sendrecv(const khorus_op& op);
  // Moves every block, in pieces of a slot.
  void move(std::vector<Block>& blocks);
  // destination[i] = the ranks' values in rank order; `mine` for this rank, `theirs(r)` for others.
  void reduce(const khorus_op& op, void* destination, size_t count, const std::byte* mine,
              const std::function<const std::byte*(int)>& theirs);
  bool is_small(size_t bytes) const;

  Mesh& mesh_;
  std::vector<Parcel> parcels_;
  std::vector<const void*> sources_;
};

}  // namespace khorus::backends::mpi
