// Scale: what one round costs the busiest process of a large world, in messages and bytes.
//
// No delays and no faults: every rank submits the same tensors, frames are delivered at once.
// Counted at each process: everything it sends and receives.
#pragma once

#include <cstdint>
#include <cstdio>
#include <vector>

namespace khorus::sim {

struct RoundCost {
  uint64_t messages = 0;
  uint64_t bytes = 0;
};

struct ScaleRow {
  int ranks = 0;
  int depth = 0;     // edges from the root to the deepest rank
  RoundCost first;   // every tensor is new; at the busiest process
  RoundCost cached;  // every tensor is cached; at the busiest process
};

struct ScaleOptions {
  int fan_in = 8;
  int tensors = 160;
};

ScaleRow measure_scale(int ranks, const ScaleOptions& options);
void print_scale(const std::vector<ScaleRow>& rows, const ScaleOptions& options, std::FILE* out);

}  // namespace khorus::sim
