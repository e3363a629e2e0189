// Bounds: frames stay within the limits of the wire; and where nothing changes from step to step
// (Scenario::steady), every rank sends its parent one report per step, and after the first step
// only cache ids travel.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/sim/checkers/checker.h"

namespace khorus::sim {

class Bounds : public Checker {
 public:
  const char* name() const override { return "bounds"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void sent(int from, int to, const wire::Frame& frame, size_t bytes, TimeUs now) override;
  void end(const Ending& ending) override;

 private:
  bool steady_ = false;
  int steps_ = 0;
  size_t tensors_ = 0;
  std::vector<int> reports_;       // by rank
  std::vector<int> full_reports_;  // of them, with anything that is not an id of a whole subtree
  uint64_t full_decisions_ = 0;    // tensors decided in full, at the root, per child
  int children_of_root_ = 0;
};

}  // namespace khorus::sim
