// Recursive vector halving and distance doubling: who reduces which part of a vector, and with
// whom.
//
// In step s a rank works with the one whose number differs in bit s: each keeps one half of the
// part that both have, and gives the other half away. After the last step every rank has a part of
// its own; going back through the steps, each pair gives each other what it has. Rabenseifner,
// "Optimization of Collective Reduction Operations", ICCS 2004.
//
// Thread rule: pure functions.
#pragma once

#include <cstddef>
#include <vector>

namespace khorus::base {

// Elements of a vector.
struct Part {
  size_t start = 0;
  size_t count = 0;
};

struct Halving {
  int partner = 0;
  int block = 0;  // so many neighbouring ranks have one vector's parts when the step is done
  bool is_lower = false;  // than the partner
  Part kept;
  Part given;
};

// The steps of `rank`. REQUIRES: size is a power of two, 0 <= rank < size.
inline std::vector<Halving> halvings(int rank, int size, size_t count) {
  std::vector<Halving> steps;
  Part whole{0, count};
  for (int distance = 1; distance < size; distance *= 2) {
    const Part lower{whole.start, whole.count / 2};
    const Part upper{whole.start + lower.count, whole.count - lower.count};
    const bool is_lower = (rank & distance) == 0;
    steps.push_back({rank ^ distance, 2 * distance, is_lower, is_lower ? lower : upper,
                     is_lower ? upper : lower});
    whole = steps.back().kept;
  }
  return steps;
}

}  // namespace khorus::base
