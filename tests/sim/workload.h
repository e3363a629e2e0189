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
  kRanks,      // other ranks for a new process set
  kDirection,  // of a transfer: both send, or both receive
  kScattered,  // the same, and at different times
  kMissing,    // does not submit it
  kDuplicate,  // submits it twice in a row
};
const char* to_string(Deviation deviation);

// One operation, or the members of one group.
struct Unit {
  std::vector<wire::Request> members;
  bool ragged = false;     // allgather, alltoall: extents differ by rank
  int set = 0;             // 0: all ranks; k: the k-th planned set, whose id is not known yet
  int changes = 0;         // adds or removes the k-th planned set
  std::vector<int> ranks;  // that submit it, ascending; empty: all
};

// A process set of the run. Its operations are in the steps from one to the other.
struct PlannedSet {
  std::vector<int> members;
  int add_step = 0;
  int remove_step = -1;  // -1: stays
};

struct PlannedDeviation {
  Deviation kind = Deviation::kNone;
  std::vector<int> ranks;  // ascending; a proper, non-empty subset
};

struct Step {
  std::vector<Unit> units;
  std::map<size_t, PlannedDeviation> deviations;  // by unit
  bool joins = false;                             // every rank leaves out what it likes, and joins
};

class Workload {
 public:
  explicit Workload(const Scenario& scenario);

  int steps() const { return static_cast<int>(steps_.size()); }
  const Step& step(int index) const { return steps_[static_cast<size_t>(index)]; }
  const std::vector<PlannedSet>& sets() const { return sets_; }
  // In which order `rank` submits the units of a step. Left out: those it never submits.
  std::vector<size_t> order(int rank, int step) const;
  // Whether the last step waits for everything before it.
  bool ends_together() const { return ends_together_; }
  // Whether `rank` submits a unit.
  bool takes_part(int rank, int step, size_t unit) const;
  // How it must end for those that submit it, when nothing disturbs it.
  StatusCode planned(int step, size_t unit) const;
  // What `rank` submits for a unit. Tickets are 0, process sets those of all ranks.
  std::vector<protocol::Submission> submissions(int rank, int step, size_t unit) const;
  Deviation deviation(int rank, int step, size_t unit) const;
  // The most tensors that can be in flight at once.
  size_t tensors_per_step() const;

 private:
  void plan_model(Random random);
  void plan_steps(Random random);
  void plan_deviations(Random random);
  Unit draw_unit(Random* random, size_t index) const;
  wire::Request draw_request(Random* random, OpKind kind) const;
  // workload_parts.cc
  void plan_parts(Random random);
  void plan_sets(Random* random);
  std::vector<Unit> draw_part_units(Random* random) const;
  Unit draw_set_unit(Random* random, int set, size_t index) const;
  Unit draw_transfer(Random* random, size_t index) const;
  Unit draw_rows(Random* random, size_t index) const;
  void add_parts(Random* random, const std::vector<Unit>& units, int index);
  bool skips(int rank, int step, size_t unit) const;
  bool spoiled_by_absence(int step, size_t unit, const std::vector<int>& there,
                          const std::vector<int>& absent) const;
  std::vector<int> ranks_of(const Unit& unit) const;

  Scenario scenario_;
  std::vector<Unit> model_;
  std::vector<Step> steps_;
  std::vector<PlannedSet> sets_;
  bool ends_together_ = false;
};

}  // namespace khorus::sim
