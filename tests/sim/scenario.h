// Scenario: everything that one seed decides before the first event.
//
// Swarm style (Groce et al., "Swarm testing", 2012): each seed switches every feature and fault on
// or off by itself, since a schedule with everything on hides the bugs that need something off.
//
// A value; pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/protocol/node.h"

namespace khorus::sim {

using protocol::TimeUs;

// How long things take. All times are virtual.
struct Timing {
  TimeUs link_delay_max_us = 100;     // of one frame on one link
  TimeUs wake_delay_max_us = 20;      // from an input to the tick that handles it
  TimeUs execution_max_us = 500;      // of one execution, once every rank has started it
  TimeUs think_max_us = 200;          // of a user thread between two submissions
  TimeUs close_delay_max_us = 1'000;  // from a crash to the neighbours' notice
  std::vector<int> slow_ranks;        // thirty times slower to wake, think and execute
};

// What the user threads do.
struct Load {
  int steps = 4;
  int units = 6;             // single operations or groups per step
  int max_group = 4;         // members
  bool random_order = true;  // each rank submits a step's units in an order of its own
  bool wait_each_step = true;
  int burst = 1;  // units submitted before the coordinator thread wakes; 0: the whole step
  bool allgathers = true, broadcasts = true, barriers = true, exchanges = true, groups = true;
  bool ragged_changes = false;  // allgather extents change with the step
  bool shapes_change = false;   // some tensors change shape from a step on
  bool optional_units = false;  // not every unit in every step
  bool long_names = false;
  bool huge_tensors = false;  // beyond 2^31 bytes
};

// Parts of the world at work on their own. Drawn last, from a stream of its own: with
// ScenarioLimits::plain a seed is what it was before there was any of this.
struct Parts {
  int sets = 0;               // process sets over the whole run
  bool sets_change = false;   // some are added and removed in the middle
  bool shared_names = false;  // operations of different sets have the same names
  int transfers = 0;          // send/recv pairs per step
  int exchanges_of_rows = 0;  // alltoalls and reducescatters per step
  bool joins = false;         // in some steps ranks join when they like
  bool devices = false;       // some of them are on a device
  bool any() const { return sets > 0 || transfers > 0 || exchanges_of_rows > 0 || joins; }
};

// What goes wrong. Times are virtual, counted from the start.
struct Faults {
  bool mismatches = false;
  bool duplicates = false;
  bool missing = false;  // a rank never submits some unit
  bool submit_after_end = false;
  std::optional<int> crash_rank;
  TimeUs crash_at_us = 0;
  std::optional<int> second_crash_rank;
  TimeUs second_crash_at_us = 0;
  std::optional<int> cut_rank;  // the link to its parent breaks while both live
  TimeUs cut_at_us = 0;
  std::optional<int> broken_rank;  // its data plane fails
  TimeUs broken_at_us = 0;
  bool data_plane_notices = false;  // survivors' data planes fail after a crash, at random times
  TimeUs notice_grace_us = 0;  // the engine's wait for news of a death before it tells its node
  std::optional<int> early_leaver;
  TimeUs leave_at_us = 0;
};

struct Scenario {
  uint64_t seed = 0;
  int ranks = 2;
  protocol::NodeOptions node;  // rank is filled in per process
  Timing timing;
  Load load;
  Faults faults;
  Parts parts;
  bool steady = false;  // every step is as the first

  // True when nothing can keep an operation from its planned outcome.
  bool undisturbed() const;
  // True when a rank may die or be taken for dead, or a data plane may fail.
  bool may_fault() const;
  bool is_slow(int rank) const;
  // The longest that one hop (link, then wake) may take.
  TimeUs hop_max_us() const;
  // Until every survivor knows of a death.
  TimeUs fault_bound_us() const;
  // Edges from the root to the deepest rank.
  int depth() const;
  // "8 ranks, fan-in 2, ..., crash of rank 3 at 1200 us": for traces.
  std::string describe() const;
};

struct ScenarioLimits {
  int min_ranks = 2;
  int max_ranks = 1024;
  bool plain = false;  // one process set, no joins, no send/recv
};

Scenario draw_scenario(uint64_t seed, const ScenarioLimits& limits = {});

}  // namespace khorus::sim
