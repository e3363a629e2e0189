// Network: the links of the control tree. Each is first in, first out, as TCP; between links
// anything may overtake anything. Frames travel as bytes.
//
// One thread: the simulation's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <unordered_map>

#include "core/wire/message.h"
#include "tests/sim/random.h"
#include "tests/sim/scenario.h"

namespace khorus::sim {

class Network {
 public:
  struct Packet {
    TimeUs due = 0;
    wire::Bytes bytes;  // empty: the connection is closed here
  };

  explicit Network(TimeUs delay_max_us) : delay_max_us_(delay_max_us) {}

  // Puts a frame on the link; returns when it arrives. Nothing once the link is closed.
  std::optional<TimeUs> send(int from, int to, wire::Bytes bytes, TimeUs now, Random* random);
  // The sending end is gone: what is behind a random cut of the frames in flight is lost (all
  // arrive when not `lossy`), then the receiver learns it. Returns when, or nothing if it was
  // closed before.
  std::optional<TimeUs> close(int from, int to, bool lossy, TimeUs delay, TimeUs now,
                              Random* random);
  // The next packet of the link. REQUIRES: one is due.
  Packet take(int from, int to);

 private:
  struct Link {
    std::deque<Packet> flying;
    TimeUs last_due = 0;
    bool closed = false;
  };
  static uint64_t key(int from, int to) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(from)) << 32) | static_cast<uint32_t>(to);
  }

  TimeUs delay_max_us_;
  std::unordered_map<uint64_t, Link> links_;
};

}  // namespace khorus::sim
