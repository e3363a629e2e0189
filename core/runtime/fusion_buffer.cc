// See fusion_buffer.h.
#include "core/runtime/fusion_buffer.h"

#include <algorithm>
#include <cstdlib>

namespace khorus::runtime {
namespace {

constexpr size_t kAlignment = 64;

}  // namespace

std::shared_ptr<void> allocate_aligned(size_t bytes) {
  const size_t rounded = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  if (rounded < bytes) return nullptr;
  void* memory = std::aligned_alloc(kAlignment, rounded);
  return memory == nullptr ? nullptr : std::shared_ptr<void>(memory, std::free);
}

void* FusionBuffer::reserve(size_t bytes) {
  if (bytes > capacity_bytes_) {
    memory_.reset();  // before the new one: never both
    const size_t grown = bytes <= limit_bytes_ ? std::min(bytes * 2, limit_bytes_) : bytes;
    memory_ = allocate_aligned(grown);
    capacity_bytes_ = memory_ == nullptr ? 0 : grown;
  }
  return memory_.get();
}

void FusionBuffer::trim() {
  if (capacity_bytes_ <= limit_bytes_) return;
  memory_.reset();
  capacity_bytes_ = 0;
}

}  // namespace khorus::runtime
