// What a launch of a kernel is about: runs of bytes that go from one place of the device's memory
// to another, and are scaled on the way.
//
// A launch has one block of threads for each chunk of a run; the runs lie in a table in the
// device's memory. Seen by the host, by nvcc and by the double of tests/gpu, which all must have
// the same layout of these types.
#pragma once

#include <cstddef>
#include <cstdint>

namespace khorus::backends::nccl {

struct Move {
  const std::byte* from;  // may equal `to`, else they do not overlap
  std::byte* to;
  uint64_t bytes;        // not 0; whole elements
  uint64_t first_chunk;  // how many chunks the moves before have
};

// Every element is multiplied, then divided, as core/base/reduce.h does; the latter integers only.
struct Scaling {
  double factor = 1.0;
  int32_t divisor = 1;
};

// 8 vectors of 16 bytes for each thread: enough loads under way to keep the memory busy, and few
// enough that blocks of one-element tensors are cheap.
inline constexpr uint32_t kVectorBytes = 16;
inline constexpr uint32_t kThreads = 256;
inline constexpr uint32_t kVectorsPerThread = 8;
inline constexpr uint32_t kChunkBytes = kVectorBytes * kThreads * kVectorsPerThread;

inline constexpr uint64_t chunks_of(uint64_t bytes) {
  return (bytes + kChunkBytes - 1) / kChunkBytes;
}

// The kernels: what is called khorus_NAME in the module, and how it treats an element
// (elements.h). Those that scale are in the order of DataType; the last one only copies.
#define KHORUS_KERNELS(KERNEL)          \
  KERNEL(scale_uint8, Integer<uint8_t>) \
  KERNEL(scale_int8, Integer<int8_t>)   \
  KERNEL(scale_int16, Integer<int16_t>) \
  KERNEL(scale_int32, Integer<int32_t>) \
  KERNEL(scale_int64, Integer<int64_t>) \
  KERNEL(scale_float16, Float16)        \
  KERNEL(scale_bfloat16, Bfloat16)      \
  KERNEL(scale_float32, Float<float>)   \
  KERNEL(scale_float64, Float<double>)  \
  KERNEL(scale_bool, Bool)              \
  KERNEL(copy, Unscaled)

}  // namespace khorus::backends::nccl
