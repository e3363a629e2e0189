// The control channel over TCP: one authenticated connection to the parent and to each child.
//
// connect_tree() meets the neighbours: it listens on a free port, publishes the address in the
// store under "addr/EPOCH/RANK", connects to the parent, accepts the children, and returns when the
// whole tree is connected: ready travels up, go travels down. Meanwhile it hears of ranks that end
// (start_watch.h). HANDSHAKE.md documents handshake and frames.
//
// Thread rule: connect_tree() and the channel's methods on one thread at a time (the coordinator
// thread), but for wake(). All I/O happens inside the calls; there is no thread behind. In a forked
// child the channel is dead: methods do nothing, its sockets are closed there.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/net/control_channel.h"
#include "core/net/job_key.h"
#include "core/net/start_watch.h"
#include "core/net/store.h"
#include "khorus/status.h"

namespace khorus::net {

struct TreeOptions {
  int rank = 0;
  int size = 1;
  int parent = -1;  // -1 at the root
  std::vector<int> children;

  Store* store = nullptr;  // outlives the call, not needed after it; left to it meanwhile
  JobKey key;
  std::string job_id;
  uint64_t epoch = 0;

  bool all_local = true;          // every rank is on this machine: listen on loopback
  std::string network_interface;  // a name ("eth0") or an address; wins over all_local
  std::string store_address;  // "host:port": when not all_local and no interface is named, listen
                              // on the address from which this one is reached
  std::string host;           // this machine's name, for messages

  std::chrono::milliseconds timeout{30'000};  // until the whole tree is connected

  // How it is known that ranks have ended and will not come: see start_watch.h.
  bool ends_are_told = false;
  int store_rank = -1;
  ProcessTable processes;
  std::string next_round;

  // A neighbour on another host that is silent for so long is lost; 0: never.
  std::chrono::milliseconds liveness_timeout{0};

  // Bounds on peers that have not authenticated. When all slots are taken, further connections wait
  // in the kernel's queue until a slot is free.
  int max_strangers = 64;
  std::chrono::milliseconds stranger_timeout{5'000};

  bool tls = false;  // on all ranks, or on none
};

// Returns on all ranks when all are connected, or fails on all. Timeout names the ranks of the job
// that did not come; PermissionDenied says what differs from the parent; PeerLost names a rank that
// has ended, or says, without a lost_rank(), that the round is over.
Result<std::unique_ptr<ControlChannel>> connect_tree(const TreeOptions& options);

// The key under which a rank's address is published: "addr/3/17".
std::string address_key(uint64_t epoch, int rank);

}  // namespace khorus::net
