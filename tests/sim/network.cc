// See network.h.
#include "tests/sim/network.h"

#include <algorithm>

#include "core/base/assert.h"

namespace khorus::sim {

std::optional<TimeUs> Network::send(int from, int to, wire::Bytes bytes, TimeUs now,
                                    Random* random) {
  Link& link = links_[key(from, to)];
  if (link.closed) return std::nullopt;
  link.last_due = std::max(link.last_due, now + random->between(1, delay_max_us_));
  link.flying.push_back({link.last_due, std::move(bytes)});
  return link.last_due;
}

std::optional<TimeUs> Network::close(int from, int to, bool lossy, TimeUs delay, TimeUs now,
                                     Random* random) {
  Link& link = links_[key(from, to)];
  if (link.closed) return std::nullopt;
  link.closed = true;
  if (lossy) {
    // Lost frames stay in the queue as empty ones, so that their arrival events find something.
    size_t kept = random->below(link.flying.size() + 1);
    for (size_t i = kept; i < link.flying.size(); ++i) link.flying[i].bytes.clear();
  }
  link.last_due = std::max(link.last_due, now) + delay;
  link.flying.push_back({link.last_due, {}});
  return link.last_due;
}

Network::Packet Network::take(int from, int to) {
  Link& link = links_[key(from, to)];
  KHORUS_ASSERT(!link.flying.empty(), "the simulator took a packet from an empty link");
  Packet packet = std::move(link.flying.front());
  link.flying.pop_front();
  return packet;
}

}  // namespace khorus::sim
