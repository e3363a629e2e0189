// World: N protocol nodes, a network, a data plane and user threads, in one thread and virtual
// time.
//
// The nodes are the production code; everything around them is drawn from the scenario's seed. A
// run is a function of (scenario, tamper): the same seed gives the same events.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "core/protocol/node.h"
#include "tests/sim/data_plane.h"
#include "tests/sim/network.h"
#include "tests/sim/observer.h"
#include "tests/sim/random.h"
#include "tests/sim/scenario.h"
#include "tests/sim/workload.h"

namespace khorus::sim {

// Falsifies what nodes do, so that tests can prove that a checker notices. Empty functions:
// nothing.
struct Tamper {
  std::function<void(int rank, protocol::Output* output, NodeView* view)> output;
  std::function<void(int from, int to, wire::Frame* frame)> frame;
};

class World {
 public:
  World(const Scenario& scenario, std::vector<Observer*> observers, Tamper tamper = {});

  // Until nothing is left to happen.
  Ending run();

 private:
  enum class EventKind : uint8_t {
    kTick,
    kArrive,
    kUser,
    kLateSubmit,
    kExecuted,
    kLeave,
    kClose,
    kCrash,
    kCut,
    kBreak
  };
  struct Event {
    TimeUs time = 0;
    uint64_t tie = 0;  // random: events of one instant come in any order
    EventKind kind = EventKind::kTick;
    int rank = 0;
    int peer = 0;
    bool operator>(const Event& other) const {
      return time != other.time ? time > other.time : tie > other.tie;
    }
  };

  struct User {
    int step = -1;
    std::vector<size_t> order;
    size_t next = 0;
    bool waiting = false;  // for a completion
    bool done = false;
  };

  struct Process {
    std::unique_ptr<protocol::Node> node;
    RankState state = RankState::kRunning;
    bool open = true;  // its connections
    TimeUs tick_at = protocol::kNever;
    User user;
    std::deque<std::pair<Origin, protocol::Submission>> late;  // members of a scattered group
    uint64_t next_ticket = 1;
    std::unordered_map<uint64_t, std::string> in_flight;  // names by ticket
    std::unordered_set<std::string> names;                // of in_flight
    std::unordered_set<int> closed_peers;
    bool shutdown = false;
    bool drained = false;
    bool leave_planned = false;
    int after_end = 0;                             // submissions made after the epoch was over here
    std::vector<ProcessSetId> set_ids;             // of the planned sets, as far as known here
    std::unordered_map<uint64_t, int> set_adding;  // planned set by ticket
    uint64_t join_ticket = 0;                      // of the join under way
  };

  static constexpr ProcessSetId kUnknownSet = -1;
  static constexpr ProcessSetId kNoSet = -2;  // its adding failed

  Process& process(int rank) { return processes_[static_cast<size_t>(rank)]; }
  std::vector<int> neighbours(int rank) const;
  void schedule(TimeUs time, EventKind kind, int rank, int peer = -1);
  void wake(int rank);
  TimeUs delay(int rank, TimeUs most);
  void plan_faults();
  void handle(const Event& event);

  // The user thread (world_user.cc).
  void user_runs(int rank);
  bool begin_step(int rank);
  bool blocked(int rank, size_t unit);
  bool is_void(int rank, size_t unit);
  void submit_joined(int rank, Origin origin);
  void learn(int rank, const protocol::Completion& completion);
  void submit(int rank, size_t unit, const Origin& origin);
  void call_submit(int rank, const Origin& origin, std::vector<protocol::Submission> call);
  void submit_late(int rank);
  void user_finished(int rank);
  void ticket_done(int rank, uint64_t ticket);

  // The process around a node.
  void tick(int rank);
  void apply(int rank, protocol::Output output);
  void send_frames(int rank, const std::vector<std::pair<int, wire::Frame>>& frames);
  void arrive(int from, int to);
  void run_data_plane(int rank);
  const std::vector<int>& participants(const protocol::Execution& execution);
  void executed(int rank);
  void drain_if_idle(int rank);
  void epoch_over(int rank, RankState state);
  void leave(int rank);

  // Faults.
  void crash(int rank);
  void close_links(int rank, bool lossy);
  void cut(int rank);
  void break_data_plane(int rank);

  Scenario scenario_;
  Workload workload_;
  std::vector<Observer*> observers_;
  Tamper tamper_;
  Random random_;
  Network network_;
  DataPlane data_plane_;
  std::unordered_map<ProcessSetId, std::vector<int>> sets_;  // as members are told
  std::vector<int> pair_;                                    // of the last send/recv looked at
  // What the ranks of a set were given first on a device: all of them meet for it.
  std::unordered_map<ProcessSetId, uint64_t> first_on_device_;
  std::vector<Process> processes_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  TimeUs now_ = 0;
};

// Host and process id of a rank, as the nodes are told.
protocol::PeerInfo peer_info(int rank);

}  // namespace khorus::sim
