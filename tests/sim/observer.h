// Observer: who watches a simulated world. Checkers and the trace are observers.
//
// Everything the protocol does is seen: what ranks submit, every frame as sent, every Output of
// every node, every end of an execution, every fault that the simulator injects. Calls come in the
// order of virtual time, on the one thread of the simulation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/protocol/node.h"
#include "tests/sim/scenario.h"
#include "tests/sim/workload.h"

namespace khorus::sim {

// What can be read off a node after a tick.
struct NodeView {
  uint64_t applied_sequence = 0;
  uint64_t state_digest = 0;
  protocol::NodeStats stats;
};

// How a rank stands at the end of the run.
enum class RankState : uint8_t { kRunning, kGoodbye, kFaulted, kCrashed };
const char* to_string(RankState state);

struct Ending {
  std::vector<RankState> ranks;
  bool ran_away = false;  // the limit of events or of virtual time was reached
  TimeUs now = 0;
};

// Where a submission comes from in the workload.
struct Origin {
  int step = 0;
  size_t unit = 0;
  bool duplicate = false;  // the second of a planned duplicate pair
  bool after_end = false;  // submitted although the epoch was over on this rank
  bool joined = false;     // submitted although the rank has joined
};

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void begin(const Scenario&, const Workload&) {}
  // One call of Node::submit.
  virtual void submitted(int /*rank*/, const Origin&, std::span<const protocol::Submission>,
                         TimeUs) {}
  virtual void sent(int /*from*/, int /*to*/, const wire::Frame&, size_t /*bytes*/, TimeUs) {}
  // One call of Node::tick and what came of it.
  virtual void ticked(int /*rank*/, const protocol::Output&, const NodeView&, TimeUs) {}
  // An execution has left this rank's data plane, well or (after a fault) badly.
  virtual void executed(int /*rank*/, const protocol::Execution&, bool /*ok*/, TimeUs) {}
  virtual void crashed(int /*rank*/, TimeUs) {}
  virtual void link_cut(int /*a*/, int /*b*/, TimeUs) {}
  virtual void data_plane_failed(int /*rank*/, const Status&, TimeUs) {}
  virtual void left(int /*rank*/, TimeUs) {}
  virtual void end(const Ending&) {}
};

}  // namespace khorus::sim
