// Adasum: adds gradients so that what two of them share counts once.
//
//   adasum(a, b) = (1 - a.b / (2 a.a)) a + (1 - a.b / (2 b.b)) b
//
// Orthogonal gradients are added, equal ones averaged. For more than two ranks: pairs, then pairs
// of pairs, ... by recursive vector halving and distance doubling, so that each rank works on its
// part of the vector and the result is gathered at the end. Maleki et al., "Scaling Distributed
// Training with Adaptive Summation", MLSys 2021.
//
// Bits are equal on all ranks: every part is computed by one rank, dot products are summed in one
// order, in float64. 16-bit floats are worked on in float32 and rounded once.
//
// Thread rule: pure but for `swap`; any thread.
#pragma once

#include <cstddef>
#include <functional>

#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::runtime {

// Sends `send_count` elements to `peer` (a rank of the group) and receives `receive_count` from it,
// while the peer does the counterpart.
using Swap = std::function<Status(int peer, DataType dtype, const void* send, size_t send_count,
                                  void* receive, size_t receive_count)>;

struct AdasumGroup {
  int rank = 0;
  int size = 1;  // a power of two
  Swap swap;
};

// In place, on `count` elements. `dtype` is a float type. Collective over the group.
Status adasum(const AdasumGroup& group, DataType dtype, void* data, size_t count);

}  // namespace khorus::runtime
