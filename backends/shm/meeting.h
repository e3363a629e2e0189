// Meeting: how the ranks of a group come by each other's segments.
//
// Every rank listens on an abstract Unix socket with a random name, which lives in the network
// namespace and leaves no file; the name travels through the engine's exchange, with a random
// token. Then every rank connects to those before it and is connected to by those after it. Both
// check that the other end runs under the same uid (SO_PEERCRED) and knows both ranks' tokens,
// before a descriptor changes hands (SCM_RIGHTS, unix(7)). The connection stays open: its end tells
// that the process has ended. Strangers cost a small fixed read and one of a few places in the
// queue.
//
// Ranks of one process need no socket (in_process.h). Thread rule: the thread that connects; its
// waits end with the Interrupt. Throws Failure.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "backends/in_process.h"
#include "backends/shm/descriptor.h"
#include "backends/shm/interrupt.h"
#include "backends/shm/segment.h"

namespace khorus::backends::shm {

// What a rank has of another.
struct Neighbour {
  std::shared_ptr<Segment> segment;
  Descriptor connection;  // none within a process, nor to this rank itself
};

class Meeting {
 public:
  struct Options {
    int rank = 0;
    int size = 1;
    size_t segment_bytes = 0;
    std::chrono::milliseconds timeout{0};
    const Interrupt* interrupt = nullptr;
  };
  // Listens. `own`: to be shown to the others.
  Meeting(const Options& options, std::shared_ptr<Segment> own);

  // For the exchange.
  std::string card() const;
  // Connects. `cards`: of all ranks. By rank; this rank's own segment is among them.
  std::vector<Neighbour> meet(const std::vector<std::string>& cards);

 private:
  struct Card {
    Token name;   // of the socket
    Token token;  // that the rank proves to be of the group with
  };
  struct Packet;
  struct Guest {
    Descriptor connection;
    int expected;  // the rank that was connected to, or -1: it will say
  };

  void read_cards(const std::vector<std::string>& cards);
  void connect_to(int peer, std::chrono::steady_clock::time_point end);
  void wait_for_events(std::chrono::steady_clock::time_point end);
  void check_interrupt() const;
  void accept_guests();
  // False: the connection is of no more use.
  bool hear(Guest& guest);
  void introduce(const Descriptor& connection, int peer) const;
  int first_missing() const;

  const Options options_;
  const Card own_card_;
  const std::shared_ptr<Segment> own_;
  Descriptor listener_;
  std::vector<Card> cards_;
  std::vector<Guest> guests_;  // have connected, or been connected to, and not spoken yet
  std::vector<Neighbour> neighbours_;
};

}  // namespace khorus::backends::shm
