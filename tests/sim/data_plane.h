// DataPlane: how collectives behave, without data.
//
// One lane per rank, in order. An execution ends on a rank some time after every rank that takes
// part has started it, as a real collective does: if ranks ran them in different orders, nothing
// would ever end and the liveness checker would say so.
//
// One thread: the simulation's.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/protocol/node.h"

namespace khorus::sim {

class DataPlane {
 public:
  explicit DataPlane(int ranks) : lanes_(static_cast<size_t>(ranks)) {}

  void enqueue(int rank, protocol::Execution execution);
  // The rank starts what is first in its lane, if nothing runs there. True when it is the last of
  // `ranks` to start it: now it will end, on all of them.
  bool start_next(int rank, size_t ranks);
  // What is first in the lane. REQUIRES: not idle.
  const protocol::Execution& next(int rank) const { return lane(rank).queue.front(); }
  // The first of the lane has ended.
  protocol::Execution finish(int rank);
  // Empties the lane: what was in it has failed.
  std::deque<protocol::Execution> abort(int rank);

  bool idle(int rank) const { return lane(rank).queue.empty(); }
  // Executions in the lane, running or waiting.
  size_t backlog(int rank) const { return lane(rank).queue.size(); }

 private:
  struct Lane {
    std::deque<protocol::Execution> queue;
    bool running = false;
  };
  Lane& lane(int rank) { return lanes_[static_cast<size_t>(rank)]; }
  const Lane& lane(int rank) const { return lanes_[static_cast<size_t>(rank)]; }

  std::vector<Lane> lanes_;
  std::unordered_map<uint64_t, size_t> started_;  // by what the ranks meet for
};

}  // namespace khorus::sim
