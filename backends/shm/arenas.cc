// See arenas.h.
#include "backends/shm/arenas.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "backends/shm/failure.h"
#include "backends/shm/packet.h"

namespace khorus::backends::shm {

// One message of a rank to another about an arena.
struct Arenas::Packet {
  enum What : uint64_t { kOffer = 1, kMapped, kRefused, kFreed };
  uint64_t magic;
  uint64_t what;
  uint64_t number;
  uint64_t bytes;
};

namespace {

constexpr uint64_t kMagic = 0x316e7261682d6863;  // "ch-harn1"
// What a peer can make this rank keep.
constexpr size_t kMostMapped = 256;
// Packets heard at a time.
constexpr int kMostPackets = 64;

}  // namespace

Arenas::Arenas(int rank, const std::vector<Neighbour>& neighbours)
    : rank_(rank),
      neighbours_(neighbours),
      theirs_(neighbours.size()),
      heard_of_(neighbours.size(), 0),
      in_use_(neighbours.size()) {}

std::shared_ptr<Segment> Arenas::allocate(size_t bytes) {
  std::shared_ptr<Segment> segment = Segment::create(bytes);
  const Token token = random_token();
  InProcess<Segment>::publish(token, segment);
  const std::scoped_lock lock(mutex_);
  own_.push_back({.segment = segment,
                  .begin = segment->data(),
                  .bytes = segment->bytes(),
                  .number = ++last_number_,
                  .token = token,
                  .mapped = std::vector<bool>(neighbours_.size())});
  return segment;
}

Place Arenas::place_of(const void* data, size_t bytes) {
  const std::scoped_lock lock(mutex_);
  forget_the_freed();
  const auto* const begin = static_cast<const std::byte*>(data);
  const auto own = std::find_if(own_.begin(), own_.end(), [&](const Own& arena) {
    return begin >= arena.begin && begin + bytes <= arena.begin + arena.bytes;
  });
  Place place;
  if (own != own_.end()) {
    if (!own->offered) offer(*own);
    if (is_mapped(*own)) {
      place.arena = own->number;
      place.offset = static_cast<size_t>(begin - own->begin);
      place.token = own->token;
    }
  }
  place.offered = last_offered_;
  return place;
}

void Arenas::forget_the_freed() {
  std::erase_if(own_, [&](const Own& arena) {
    if (!arena.segment.expired()) return false;
    for (size_t peer = 0; arena.offered && peer < neighbours_.size(); ++peer) {
      // One that is not told keeps the memory until the group ends.
      tell(static_cast<int>(peer), {kMagic, Packet::kFreed, arena.number, 0});
    }
    return true;
  });
}

void Arenas::offer(Own& arena) {
  arena.offered = true;
  const std::shared_ptr<Segment> segment = arena.segment.lock();
  arena.refused = segment == nullptr;  // not while the caller holds it, as it must
  if (arena.refused) return;
  for (size_t peer = 0; peer < neighbours_.size(); ++peer) {
    if (static_cast<int>(peer) == rank_ || connection(static_cast<int>(peer)) < 0) {
      arena.mapped[peer] = true;  // of this process
    } else if (!tell(static_cast<int>(peer), {kMagic, Packet::kOffer, arena.number, arena.bytes},
                     segment->descriptor())) {
      arena.refused = true;  // its buffer is full, or too many descriptors are under way
    }
  }
  last_offered_ = arena.number;
  segment->close_descriptor();
}

bool Arenas::is_mapped(const Own& arena) const {
  return !arena.refused &&
         std::find(arena.mapped.begin(), arena.mapped.end(), false) == arena.mapped.end();
}

bool Arenas::tell(int peer, const Packet& packet, int descriptor) const {
  const int to = connection(peer);
  return to >= 0 && send_packet(to, &packet, sizeof(packet), descriptor);
}

void Arenas::hear_of(int peer, const Place& place) {
  bool waits = false;
  {
    const std::scoped_lock lock(mutex_);
    waits = std::any_of(own_.begin(), own_.end(), [&](const Own& arena) {
      return arena.offered && !arena.refused && !arena.mapped[static_cast<size_t>(peer)];
    });
  }
  uint64_t& heard_of = heard_of_[static_cast<size_t>(peer)];
  if (!waits && place.offered <= heard_of) return;
  heard_of = std::max(heard_of, place.offered);
  hear(peer);
}

void Arenas::hear(int peer) {
  const int from = connection(peer);
  for (int i = 0; from >= 0 && i < kMostPackets; ++i) {
    Packet packet{};
    Descriptor passed;
    if (receive_packet(from, &packet, sizeof(packet), passed) <= 0) return;
    if (!handle(peer, packet, passed)) return;
  }
}

// False: what it sends makes no sense.
bool Arenas::handle(int peer, const Packet& packet, Descriptor& passed) {
  if (packet.magic != kMagic) return false;
  if (packet.what == Packet::kOffer) {
    const bool mapped = map(peer, packet, passed);
    tell(peer, {kMagic, mapped ? Packet::kMapped : Packet::kRefused, packet.number, 0});
    return true;
  }
  if (packet.what == Packet::kFreed) {
    theirs_[static_cast<size_t>(peer)].erase(packet.number);
    return true;
  }
  const std::scoped_lock lock(mutex_);
  for (Own& arena : own_) {
    if (arena.number != packet.number) continue;
    arena.mapped[static_cast<size_t>(peer)] = packet.what == Packet::kMapped;
    arena.refused |= packet.what != Packet::kMapped;
  }
  return true;
}

bool Arenas::map(int peer, const Packet& offer, Descriptor& passed) {
  auto& theirs = theirs_[static_cast<size_t>(peer)];
  if (!passed || theirs.size() >= kMostMapped || theirs.contains(offer.number)) return false;
  try {
    theirs[offer.number] = Segment::adopt(std::move(passed), offer.bytes);
    return true;
  } catch (const std::runtime_error&) {
    theirs.erase(offer.number);
    return false;
  }
}

const std::byte* Arenas::memory_of(int peer, const Place& place, size_t bytes, size_t width) {
  std::shared_ptr<Segment> segment;
  if (connection(peer) < 0) {
    segment = InProcess<Segment>::find(place.token);
  } else {
    const auto& theirs = theirs_[static_cast<size_t>(peer)];
    const auto found = theirs.find(place.arena);
    if (found != theirs.end()) segment = found->second;
  }
  if (segment == nullptr || place.offset % width != 0 || bytes > segment->bytes() ||
      place.offset > segment->bytes() - bytes) {
    throw Failure(Failure::Cause::kMismatch, peer,
                  "it says that its data lies where none of its memory is");
  }
  in_use_[static_cast<size_t>(peer)] = segment;
  return std::as_const(*segment).data() + place.offset;
}

}  // namespace khorus::backends::shm
