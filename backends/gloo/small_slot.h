// SmallSlot: the memory of one small message of a Mesh, and where in it the message lies.
//
// The message lies at the end, before a trailer of its size and the number of its round. Bytes
// arrive in order and the round comes last: so whoever finds the round there knows that the whole
// message has arrived, also when Gloo only says that the connection has ended. (Part of the number
// is enough: the rest of the memory was the same already.) A view: the memory is the mesh's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace khorus::backends::gloo {

class SmallSlot {
 private:
  struct Trailer {
    uint64_t bytes;
    uint64_t round;  // from 1 on: fresh memory holds none
  };

 public:
  // Largest message, and the memory that it takes.
  static constexpr size_t kMostBytes = 32 * 1024;
  static constexpr size_t kSlotBytes = kMostBytes + sizeof(Trailer);

  // REQUIRES: kSlotBytes, aligned to 16.
  explicit SmallSlot(std::span<std::byte> memory) : memory_(memory) {}

  // Makes room for a message of `bytes` (at most kMostBytes); aligned to 16.
  std::span<std::byte> write(size_t bytes, uint64_t round) {
    const Trailer trailer{.bytes = bytes, .round = round};
    std::memcpy(memory_.data() + kMostBytes, &trailer, sizeof(trailer));
    return memory_.subspan(begin(bytes), bytes);
  }
  // What travels begins here and goes to the end.
  size_t begin() const { return begin(trailer().bytes); }
  bool holds(uint64_t round) const { return trailer().round == round; }
  // Its size is the sender's word; within the slot, whatever that says.
  std::span<const std::byte> message() const {
    const size_t bytes = std::min<size_t>(trailer().bytes, kMostBytes);
    return memory_.subspan(begin(bytes), bytes);
  }

 private:
  static size_t begin(size_t bytes) { return (kMostBytes - bytes) & ~size_t{15}; }
  Trailer trailer() const {
    Trailer trailer;
    std::memcpy(&trailer, memory_.data() + kMostBytes, sizeof(trailer));
    return trailer;
  }

  std::span<std::byte> memory_;
};

}  // namespace khorus::backends::gloo
