// Programs: operations of all kinds in random order, which the ranks of a group run together.
//
// A program is a value, the same on all ranks for the same seed. As in the engine, its steps are
// numbered through, also those (send/recv) in which a rank takes no part; and the numbers have
// gaps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "khorus/status.h"
#include "khorus/types.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {

struct Step {
  OpKind kind;
  DataType dtype;
  ReduceOp op;
  uint64_t sequence;
  int first;                                  // the root; of send/recv one rank, and
  int second;                                 // the other
  std::vector<uint64_t> counts;               // by rank: of a block; [0]: of the whole
  uint64_t count_to(int from, int to) const;  // in alltoall and send/recv
};

// The sequence numbers are those after `last_sequence`.
std::vector<Step> make_program(uint64_t seed, int group_size, size_t steps,
                               uint64_t last_sequence = 0);

// This rank's part of a step, if it has one. What it gets is checked when the status is ok.
Status run_step(Member& member, const Step& step);

// Up to the first error.
Status run_program(Member& member, const std::vector<Step>& program);

}  // namespace khorus::conformance
