// FusionBuffer: the staging memory through which small tensors travel as one.
//
// Grows to what is asked for and is used again; what exceeds the limit is given back after use (a
// group larger than the fusion threshold). Aligned to 64 bytes, not initialised.
//
// Thread rule: who holds the lane's role.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>

namespace khorus::runtime {

// 64-byte aligned memory that its last owner frees; null when there is not enough.
std::shared_ptr<void> allocate_aligned(size_t bytes);

// Nothing for no bytes, and when both are the same memory; they may overlap.
inline void copy_bytes(void* destination, const void* source, size_t bytes) {
  if (bytes > 0 && destination != source) std::memmove(destination, source, bytes);
}

class FusionBuffer {
 public:
  explicit FusionBuffer(size_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // At least `bytes`, valid until the next call; null when there is not enough memory.
  void* reserve(size_t bytes);
  void trim();

 private:
  size_t limit_bytes_;
  size_t capacity_bytes_ = 0;
  std::shared_ptr<void> memory_;
};

}  // namespace khorus::runtime
