// Part: what one rank does of an operation of the local backend.
//
// This is the reference the other backends are measured against: every element is reduced once, in
// rank order, by one of the ranks. The same inputs therefore give the same bits, whatever the
// arrival order. What a rank gets it copies from the memory of the others, all of whom are held by
// the Meeting meanwhile. Thread rule: one thread, between enter() and leave() of the meeting.
#pragma once

#include <cstddef>

#include "backends/local/meeting.h"
#include "khorus/backend.h"

namespace khorus::backends::local {

class Part {
 public:
  // `place` of this rank in the meeting. Both must outlive this.
  Part(const Meeting& meeting, size_t place, const khorus_op& op);

  // What comes before enter(): others may look at the output from then on.
  static void prepare(const khorus_op& op, size_t rank);
  // Returns early when the meeting has failed.
  void work() const;

 private:
  void allreduce() const;
  void allgather() const;
  void alltoall() const;
  void reducescatter() const;
  // Copies the values at `offset` (elements) of everybody's input, reduced, to `destination`.
  void reduce(size_t offset, size_t count, std::byte* destination) const;
  void copy(void* destination, const void* source, size_t bytes) const;
  const khorus_op& op_of(size_t place) const { return *meeting_.ops()[place]; }
  size_t size() const { return meeting_.ops().size(); }

  const Meeting& meeting_;
  const size_t place_;
  const khorus_op& op_;
  const size_t width_;  // bytes per element
};

}  // namespace khorus::backends::local
