// What the NCCL double's operations do with memory and messages: every rank sends what it has to
// everybody who needs it, and reduces by itself.
//
// Sums go around a ring from the rank after the one that owns the piece, and 16-bit floats are
// rounded at every step, as NCCL may: so results differ from those in rank order in their last
// bits, and a test that takes them for equal does not pass here either.
//
// Thread rule: the thread of the stream that runs the operation.
#pragma once

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/gpu/double/machine.h"
#include "tests/gpu/double/mesh.h"

namespace khorus::gpu_double {

enum class Kind { kAllReduce, kReduce, kBroadcast, kAllGather, kReduceScatter, kSend, kRecv };

// One call of NCCL.
struct Operation {
  Kind kind;
  const void* input = nullptr;
  void* output = nullptr;
  size_t count = 0;  // as the call says
  ncclDataType_t type = ncclInt8;
  ncclRedOp_t op = ncclSum;
  int peer = 0;       // or the root
  double factor = 1;  // of a premultiplied sum
  bool is_multiplied = false;
};

size_t width_of(ncclDataType_t type);
std::string name_of(const Operation& operation);
// What it reads and writes on this rank.
std::vector<Access> accesses_of(const Operation& operation, int rank, int size);
// One element of this type as a number.
double value_of(ncclDataType_t type, const void* element);
// Runs one collective, or all sends and receives of a group. `what`: the same on both sides.
Mesh::Outcome run(Mesh& mesh, const std::vector<Operation>& operations, int rank, int size);

}  // namespace khorus::gpu_double
