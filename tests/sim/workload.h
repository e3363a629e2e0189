// Workload: what every rank submits in every step, and what must come of it.
//
// Made from the scenario before the first event and shared by all ranks: a rank's own variations
// (order, ragged extents, payloads, deviations) are computed from (seed, rank, step), not stored,
// so a thousand ranks cost no more than one.
//
// A value; pure.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/protocol/node.h"
#include "tests/sim/random.h"
#include "tests/sim/scenario.h"

namespace khorus::sim {

// What one rank does differently in one unit of one step.
enum class Deviation : uint8_t {
  kNone,
  kDtype,
  kShape,
  kOp,
  kScale,
  kRoot,
  kKind,
  kGroup,
  kDevice,
  kUngrouped,  // submits the members of a group one by one
  kMember,     // one member of the group has another name
  kScattered,  // the same, and at different times
  kMissing,    // does not submit it
  kDuplicate,  // submits it twice in a row
};
const char* to_string(Deviation deviation);

// One operation, or the members of one group.
struct Unit {
  std::vector<wire::Request> members;
  bool ragged = false;  // allgather: extents differ by rank
};

struct PlannedDeviation {
  Deviation kind = Deviation::kNone;
  std::vector<int> ranks;  // ascending; a proper, non-empty subset
};

struct Step {
  std::vector<Unit> units;
  std::map<size_t, PlannedDeviation> deviations;  // by unit
};

class Workload {
 public:
  explicit Workload(const Scenario& scenario);

  int steps() const { return static_cast<int>(steps_.size()); }
  const Step& step(int index) const { return steps_[static_cast<size_t>(index)]; }
  // In which order `rank` submits the units of a step. Left out: those it never submits.
  std::vector<size_t> order(int rank, int step) const;
  // What `rank` submits for a unit. Tickets are 0.
  std::vector<protocol::Submission> submissions(int rank, int step, size_t unit) const;
  Deviation deviation(int rank, int step, size_t unit) const;
  // The most tensors that can be in flight at once.
  size_t tensors_per_step() const;

 private:
  void plan_model(Random random);
  void plan_steps(Random random);
  void plan_deviations(Random random);
  Unit draw_unit(Random* random, size_t index) const;

  Scenario scenario_;
  std::vector<Unit> model_;
  std::vector<Step> steps_;
};

}  // namespace khorus::sim
