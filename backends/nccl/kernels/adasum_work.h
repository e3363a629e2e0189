// What each launch of a kernel of Adasum is about, and how many blocks it takes; what is done with
// it says adasum_body.h.
//
// Seen by the host, by nvcc and by the double of tests/gpu, as move.h is. Memory is the device's;
// `a` is what the lower half of the ranks brings, `b` what the upper half does.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backends/nccl/kernels/elements.h"
#include "core/base/adasum_element.h"

namespace khorus::backends::nccl {

// Every block writes the dot products of what it looked at to its own place.
template <class T>
struct DotsOf {
  const T* a;
  const T* b;
  uint64_t count;
  base::AdasumDots* sums;  // one for each block
};

// One block adds them up; in one order, so whoever has the same sums gets the same bits.
struct TotalOf {
  const base::AdasumDots* sums;
  uint64_t count;
  base::AdasumDots* total;
};

// `to` may be `a` or `b`, else they do not overlap.
template <class T>
struct Combination {
  const T* a;
  const T* b;
  T* to;
  uint64_t count;
  const base::AdasumDots* dots;
};

// To and from the float32 in which 16-bit floats are worked on. Nothing overlaps.
template <class Element>
struct Widening {
  const typename Element::Stored* from;
  float* to;
  uint64_t count;
};
template <class Element>
struct Narrowing {
  const float* from;
  typename Element::Stored* to;
  uint64_t count;
};

// The kernels: what is called khorus_NAME in the module, and its only argument.
#define KHORUS_ADASUM_KERNELS(KERNEL)         \
  KERNEL(adasum_dots_float32, DotsOf<float>)  \
  KERNEL(adasum_dots_float64, DotsOf<double>) \
  KERNEL(adasum_total, TotalOf)               \
  KERNEL(adasum_float32, Combination<float>)  \
  KERNEL(adasum_float64, Combination<double>) \
  KERNEL(widen_float16, Widening<Float16>)    \
  KERNEL(widen_bfloat16, Widening<Bfloat16>)  \
  KERNEL(narrow_float16, Narrowing<Float16>)  \
  KERNEL(narrow_bfloat16, Narrowing<Bfloat16>)

// The number of a kernel with this argument, by the order above.
template <class Work>
inline constexpr size_t kKernelOf = ~size_t{0};
namespace detail {
#define KHORUS_KERNEL(name, Work) k_##name,
enum AdasumKernel : size_t { KHORUS_ADASUM_KERNELS(KHORUS_KERNEL) kAdasumKernels };
#undef KHORUS_KERNEL
}  // namespace detail
#define KHORUS_KERNEL(name, Work) \
  template <>                     \
  inline constexpr size_t kKernelOf<Work> = detail::k_##name;
KHORUS_ADASUM_KERNELS(KHORUS_KERNEL)
#undef KHORUS_KERNEL
inline constexpr size_t kAdasumKernelCount = detail::kAdasumKernels;

// Each thread has so many elements, and more where the blocks are all taken: enough of them to fill
// a large GPU, and few enough sums to add up.
inline constexpr uint64_t kAdasumPerThread = 16;
inline constexpr uint64_t kMostAdasumBlocks = 1024;

// At least one: the sums of nothing are zeros.
inline uint32_t adasum_blocks(uint64_t count) {
  const uint64_t per_block = kThreads * kAdasumPerThread;
  return static_cast<uint32_t>(
      std::clamp<uint64_t>((count + per_block - 1) / per_block, 1, kMostAdasumBlocks));
}
template <class Work>
uint32_t blocks_of(const Work& work) {
  return adasum_blocks(work.count);
}
inline uint32_t blocks_of(const TotalOf&) { return 1; }

}  // namespace khorus::backends::nccl
