// StartWatch: what a rank hears of the others while it waits for the control tree to be connected:
// where its parent listens, and that the meeting is in vain because a rank has ended.
//
// Who has ended is in the store (ended_ranks.h): khorusrun tells it; where it does not, a rank sees
// the end of its neighbours' processes on its own machine, by their pidfds, and tells all others.
// In a job whose ranks are started again, the next round says so (rounds.h). Nothing polls: the
// answers of the store and the ends of processes are readable descriptors.
//
// Thread rule: the thread that runs the io_context. It is destroyed before the io_context; no
// callback comes after that.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/net/asio.h"
#include "core/net/store.h"
#include "khorus/status.h"

namespace khorus::net {

// What the system knows of processes. Both functions are empty where nobody is to be watched.
struct ProcessTable {
  struct Handle {
    int fd = -1;  // the receiver's: readable once the process has ended; -1: not of this machine
    int64_t pid = 0;
  };
  std::function<std::string()> self;  // this process, in words that open() understands
  std::function<Handle(const std::string& process)> open;
};

struct StartWatchOptions {
  Store* store = nullptr;  // left to this thread meanwhile
  int store_rank = -1;     // who serves it; -1: none of the ranks
  int size = 1;
  uint64_t epoch = 0;
  int parent = -1;  // -1: none
  std::vector<int> children;
  std::string host;            // this machine's name, for messages
  bool ends_are_told = false;  // by khorusrun
  ProcessTable processes;      // used otherwise
  std::string next_round;      // the key that ends the present round; empty: there are none
  std::string parent_address;  // the parent's key
  std::function<void(const std::string& address)> on_parent_address;
  // Once. PeerLost names the rank, or, without a lost_rank(), says why this round is over;
  // Unavailable: a store is gone that no rank serves.
  std::function<void(const Status& why)> on_vain;
};

class StartWatch {
 public:
  static Result<std::unique_ptr<StartWatch>> start(asio::io_context& io, StartWatchOptions options);
  ~StartWatch();
  StartWatch(const StartWatch&) = delete;
  StartWatch& operator=(const StartWatch&) = delete;

  // Whether anybody would tell of a rank's end.
  bool may_hear() const noexcept;

 private:
  class State;
  explicit StartWatch(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace khorus::net
