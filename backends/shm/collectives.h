// The collective operations over the segments of a group.
//
// Small ones take one step: every rank puts its contribution into its slot, ticks, waits for all
// others, and works on all slots itself, in rank order. Large ones go through the staging areas in
// pieces, and what is staged of one piece is read while the next one is put in:
//   allreduce      a rank stages what others reduce, reduces its slice of the piece from its own
//                  input and the others' staging in rank order, and everybody copies the slices
//                  Where all ranks' tensors lie in arenas (arenas.h), in place, nothing is staged:
//                  a rank reduces its slice of everybody's memory into its own, whence others copy
//                  it
//   reducescatter  the first half of that
//   allgather, broadcast   whoever has a piece stages it, who needs it copies it
//   alltoall, sendrecv     letter boxes for each pair (mail.cc)
// All sums are in rank order: the same bits as `local`, whatever the sizes and who comes first.
//
// Ticks. An operation takes the same number of ticks on all ranks. A buffer may be written again
// once all ranks have ticked past the last use of what it held; that tick is noted with the buffer.
// A rank ticks for the first time in an operation only when it is through with all earlier ones.
// In a large operation of K pieces a rank stages piece 0 and ticks 1; then for every piece k it
// stages piece k + 1 and ticks 2k + 2, works on piece k as others have staged it and ticks 2k + 3
// (Pace). So it waits for what others have done a piece ago, and never in a circle. A large
// allreduce ticks once before that, when it has said where its memory is; if that is in arenas
// everywhere, then once for every piece that it has reduced, and once when it has collected all:
// memory that others read is given back only when all are there.
//
// Nothing in shared memory is believed: sizes and places follow from the operation and the layout,
// and a place in an arena is checked.
// Thread rule: that of Signals. Throws Failure.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backends/operation.h"
#include "backends/shm/arenas.h"
#include "backends/shm/layout.h"
#include "backends/shm/signals.h"
#include "khorus/backend.h"

namespace khorus::backends::shm {

class Collectives {
 public:
  // `segments`: by rank; this rank's own is written to. All must outlive this.
  Collectives(int rank, const Layout& layout, const std::vector<std::byte*>& segments,
              Signals& signals, Arenas& arenas);

  void run(const khorus_op& op);

 private:
  struct SmallHeader;
  // What an operation is cut into.
  struct Cut {
    size_t width;           // bytes per element
    size_t count;           // elements
    size_t piece_elements;  // of a whole piece
    size_t pieces;
  };
  static Cut cut_into_pieces(const khorus_op& op, size_t piece_bytes);
  // The ticks of a large operation.
  struct Pace {
    uint64_t base;
    uint64_t staged(size_t piece) const { return base + (piece == 0 ? 1 : 2 * piece); }
    uint64_t done(size_t piece) const { return base + 2 * piece + 3; }
  };
  // Calls put(k) for every piece, in time, and work(k) once this rank may go on with it.
  template <class Put, class Work>
  void for_each_piece(size_t pieces, Put&& put, Work&& work) {
    const Pace pace{signals_.now()};
    for (size_t next = 0, piece = 0; piece < pieces; ++piece) {
      for (; next < pieces && next <= piece + 1; ++next) {
        // Whoever reads what is staged is through with it when it is done with the piece.
        put(next, stage(next, pace.done(next)));
        signals_.tick(pace.staged(next));
      }
      work(piece, pace);
    }
  }
  // Bytes from the start of the piece, and elements.
  struct Slice {
    size_t offset;
    size_t elements;
  };

  void allreduce(const khorus_op& op);
  void allreduce_small(const khorus_op& op, size_t bytes);
  void allreduce_large(const khorus_op& op);
  void allreduce_staged(const khorus_op& op);
  // True, on all ranks alike: memory_ is everybody's tensors.
  bool find_memory(const khorus_op& op);
  void allreduce_direct(const khorus_op& op);
  void reduce_direct(const khorus_op& op, const Cut& cut, size_t piece);
  void collect_direct(const khorus_op& op, const Cut& cut, size_t piece, uint64_t reduced_at);
  void stage_slices(const khorus_op& op, const Cut& cut, size_t piece, std::byte* to) const;
  void reduce_slice(const khorus_op& op, const Cut& cut, size_t piece);
  void collect_slices(const khorus_op& op, const Cut& cut, size_t piece, uint64_t reduced_at);
  Slice slice_of(const Cut& cut, size_t piece, int rank) const;
  void reducescatter(const khorus_op& op);
  void stage_blocks(const khorus_op& op, const Cut& cut, size_t piece, std::byte* to) const;
  void reduce_block(const khorus_op& op, const Cut& cut, size_t piece);
  void allgather(const khorus_op& op);
  void allgather_large(const khorus_op& op, size_t largest);
  void broadcast(const khorus_op& op);
  void broadcast_small(const khorus_op& op, size_t bytes);
  void alltoall(const khorus_op& op);
  void sendrecv(const khorus_op& op);

  // One step of a small operation: this rank's bytes into its slot. Returns which slot it is.
  size_t put_small(const khorus_op& op, const void* data, size_t bytes);
  // What `rank` has put there; throws if it runs another operation.
  const std::byte* small_from(const khorus_op& op, int rank, size_t slot) const;
  bool is_small(size_t bytes) const;

  // Letter boxes: the next piece to `peer`, and from it.
  void post(int peer, const std::byte* data, size_t bytes);
  void take(int peer, std::byte* data, size_t bytes);
  struct Letters;
  void exchange(std::span<Letters> letters);

  // Where to stage the piece, once all are through with what is there. They will be with this piece
  // at `free_at`.
  std::byte* stage(size_t piece, uint64_t free_at);
  void copy(void* destination, const void* source, size_t bytes) const;
  size_t ranks() const { return segments_.size(); }
  std::byte* own(size_t offset) const { return segments_[static_cast<size_t>(rank_)] + offset; }
  const std::byte* of(int rank, size_t offset) const {
    return segments_[static_cast<size_t>(rank)] + offset;
  }
  template <class Function>
  void for_each_peer(Function&& function) const {
    for (size_t i = 1; i < ranks(); ++i) {
      function(static_cast<int>((static_cast<size_t>(rank_) + i) % ranks()));
    }
  }

  const int rank_;
  const Layout layout_;
  const std::vector<std::byte*> segments_;
  Signals& signals_;
  Arenas& arenas_;
  size_t next_slot_ = 0;
  size_t next_place_ = 0;
  // The tick at which all ranks are through with what the buffer holds.
  std::array<uint64_t, 2> slot_free_{};
  std::array<uint64_t, 2> place_free_{};
  std::array<uint64_t, 2> staging_free_{};
  std::array<uint64_t, 2> result_free_{};
  std::vector<uint64_t> posted_;  // pieces, by rank
  std::vector<uint64_t> taken_;
  std::vector<const void*> sources_;
  std::vector<const std::byte*> memory_;  // by rank: of an operation in arenas
};

}  // namespace khorus::backends::shm
