// Arenas: memory for the caller's tensors that the other ranks of the group can read, so that what
// lies there need not be staged.
//
// An arena is a segment (segment.h), which only the rank that made it can write. When it is first
// used its descriptor goes to the other ranks, over the connections they have met by; each maps it
// and says so, and from then on a Place in it may be told to them. An arena that somebody cannot
// map is ordinary memory: its owner goes on staging it. Nobody ever waits for a packet.
//
// A place is read from shared memory, so it is checked against the segment as it was mapped. The
// arenas of a rank that writes garbage spoil results and reach nothing else.
//
// An arena belongs to its holder and outlives the group; who has mapped it keeps it until it hears
// of the end, with the next arena, or leaves the group.
//
// Thread rule: allocate() from any thread; the rest by the thread that runs operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "backends/in_process.h"
#include "backends/shm/layout.h"
#include "backends/shm/meeting.h"
#include "backends/shm/segment.h"

namespace khorus::backends::shm {

class Arenas {
 public:
  // `neighbours`: by rank; they must outlive this.
  Arenas(int rank, const std::vector<Neighbour>& neighbours);

  // Throws std::runtime_error.
  std::shared_ptr<Segment> allocate(size_t bytes);

  // Where these bytes of this rank lie, to be told to the others.
  Place place_of(const void* data, size_t bytes);
  // Takes the descriptors that are on their way, if this place of a peer mentions any.
  void hear_of(int peer, const Place& place);
  // What the peer's place stands for, until the next call for this peer. Throws Failure if it
  // stands for nothing.
  const std::byte* memory_of(int peer, const Place& place, size_t bytes, size_t width);

 private:
  struct Packet;
  struct Own {
    std::weak_ptr<Segment> segment;
    const std::byte* begin;
    size_t bytes;
    uint64_t number;
    Token token;
    bool offered = false;
    bool refused = false;
    std::vector<bool> mapped;  // by rank
  };

  void offer(Own& arena);
  void forget_the_freed();
  void hear(int peer);
  bool handle(int peer, const Packet& packet, Descriptor& passed);
  bool tell(int peer, const Packet& packet, int descriptor = -1) const;
  bool map(int peer, const Packet& offer, Descriptor& passed);
  bool is_mapped(const Own& arena) const;
  int connection(int peer) const { return neighbours_[static_cast<size_t>(peer)].connection.get(); }

  const int rank_;
  const std::vector<Neighbour>& neighbours_;
  std::mutex mutex_;  // guards own_ and last_number_
  std::vector<Own> own_;
  uint64_t last_number_ = 0;
  uint64_t last_offered_ = 0;
  std::vector<std::map<uint64_t, std::shared_ptr<Segment>>> theirs_;  // by rank, by number
  std::vector<uint64_t> heard_of_;                                    // by rank: the last offer
  std::vector<std::shared_ptr<Segment>> in_use_;  // by rank: what memory_of() has returned
};

}  // namespace khorus::backends::shm
