// Segment: the shared memory of one rank. Its owner writes; the ranks of other processes can only
// read it.
//
// A memfd: it has no name, so nothing is left when its processes have ended, however they did. It
// is allocated in full when it is made, and sealed: it cannot be cut short under a reader, which
// would be a SIGBUS there, and nobody can map it for writing but who made it. Both are checked
// again by whoever adopts a descriptor. See memfd_create(2), fcntl(2) on seals.
//
// Not inherited by forked children (they see no memory there). Thread rule: made and destroyed by
// one thread at a time; who may touch the memory when is signals.h's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "backends/shm/descriptor.h"

namespace khorus::backends::shm {

class Segment {
 public:
  // Of at least `bytes`, zeroed. Throws std::runtime_error.
  static std::shared_ptr<Segment> create(size_t bytes);
  // What another process has created with the same size, for reading. Throws std::runtime_error if
  // it is anything else, or cannot be mapped.
  static std::shared_ptr<Segment> adopt(Descriptor descriptor, size_t bytes);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  size_t bytes() const { return bytes_; }  // whole pages
  // REQUIRES: create()d.
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  // Of a created segment, until it is closed.
  int descriptor() const { return descriptor_.get(); }
  void close_descriptor() { descriptor_.reset(); }

 private:
  Segment(Descriptor descriptor, size_t bytes, int protection);

  Descriptor descriptor_;
  std::byte* data_ = nullptr;
  const size_t bytes_;
  const uint64_t process_;  // which of the processes of a chain of forks
};

}  // namespace khorus::backends::shm
