// Layout: where what lies in the segment of a rank. Computed from the size of the group alone, the
// same on all ranks; nothing here is ever read from shared memory.
//
//   header    the owner's clock and what it waits for (signals.h)
//   mail      two words per other rank: pieces put into its letter box, taken out of that of theirs
//   places    two words about where a large contribution lies (arenas.h)
//   slots     two small contributions, each with a header
//   staging   two pieces of what the owner contributes to a large operation
//   results   two slices that the owner has reduced
//   boxes     two pieces per other rank (alltoall, send and receive)
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "backends/in_process.h"

namespace khorus::backends::shm {

// A counter that its owner advances and others wait for: the count in the upper bits, bit 0 set
// when the owner has left the group. Alone in a pair of cache lines, which are fetched together.
struct alignas(128) Word {
  std::atomic<uint64_t> value{0};
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "words are shared between processes");

struct Header {
  Word clock;
  Word waits_for;  // 1 + the rank whose word the owner sleeps on, or 0
};
struct MailWords {
  Word sent;
  Word taken;
};

// Where a contribution lies, for the others to read it there. `arena` 0: nowhere they can read.
struct alignas(64) Place {
  uint64_t arena = 0;
  uint64_t offset = 0;
  uint64_t offered = 0;  // the last arena whose descriptor is on its way to the others
  Token token{};         // for ranks of one process
};

class Layout {
 public:
  explicit Layout(int ranks) : ranks_(static_cast<size_t>(ranks)) {
    const size_t words = sizeof(Header) + ranks_ * sizeof(MailWords);
    places_ = align(words);
    slots_ = (places_ + 2 * sizeof(Place) + kPage - 1) / kPage * kPage;
    staging_ = slots_ + 2 * kSlotBytes;
    results_ = staging_ + 2 * piece_bytes();
    boxes_ = results_ + 2 * slice_bytes();
    total_ = boxes_ + 2 * ranks_ * box_bytes();
  }

  // A small contribution with its header.
  static constexpr size_t kSlotBytes = 32 * 1024;
  // Of a large operation, per round. All staging and results of a host together should stay in its
  // last-level cache; each rank's slice should pay for waiting.
  size_t piece_bytes() const { return std::max<size_t>(kPieceBytes, ranks_ * kLeastSliceBytes); }
  // What one rank reduces of a piece, at most.
  size_t slice_bytes() const { return align(piece_bytes() / ranks_ + kLine); }
  // Of an operation in arenas: what is reduced should still be in a cache when it is collected.
  size_t direct_piece_bytes() const {
    return std::max<size_t>(kDirectPieceBytes, ranks_ * kLeastSliceBytes);
  }
  size_t box_bytes() const { return std::max(align(kBoxesBytes / ranks_), kPage); }

  size_t total_bytes() const { return total_; }
  static constexpr size_t header() { return 0; }
  size_t mail(int peer) const { return sizeof(Header) + index(peer) * sizeof(MailWords); }
  size_t place(size_t set) const { return places_ + set * sizeof(Place); }
  size_t slot(size_t set) const { return slots_ + set * kSlotBytes; }
  size_t staging(size_t set) const { return staging_ + set * piece_bytes(); }
  size_t result(size_t set) const { return results_ + set * slice_bytes(); }
  size_t box(int peer, size_t set) const { return boxes_ + (2 * index(peer) + set) * box_bytes(); }

  static constexpr size_t kLine = 64;

 private:
  static constexpr size_t kPage = 4096;
  static constexpr size_t kPieceBytes = 512 * 1024;
  static constexpr size_t kDirectPieceBytes = 1024 * 1024;
  static constexpr size_t kLeastSliceBytes = 32 * 1024;
  static constexpr size_t kBoxesBytes = 512 * 1024;

  static constexpr size_t align(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }
  static size_t index(int rank) { return static_cast<size_t>(rank); }

  size_t ranks_;
  size_t places_;
  size_t slots_;
  size_t staging_;
  size_t results_;
  size_t boxes_;
  size_t total_;
};

}  // namespace khorus::backends::shm
