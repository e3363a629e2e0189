// Reduction kernels: the loops of reduce.cc, compiled once for each instruction set (a path), and
// the table of each. Internal to core/base and its tests; reduce.h is the interface.
//
// Every path gives the same bits (reduce_loops.h has the arithmetic, once for all of them); only
// which NaN comes out of two may differ. Pure functions and constant tables; any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::base {

enum class ReducePath : uint8_t {
  kBaseline,  // what every x86-64 processor has: SSE2
  kAvx2,      // with F16C
  kAvx512,    // F, BW, DQ, VL
  kAvx512Bf16,
};

// out[i] = a[i] op b[i] for `count` elements; out may be a or b. `Values` are float for 16-bit
// floats, else the type itself.
using CombineLoop = void (*)(void* out, const void* a, const void* b, size_t count);
struct CombineLoops {
  CombineLoop both;    // type = type op type
  CombineLoop first;   // values = type op type
  CombineLoop middle;  // values = values op type
  CombineLoop last;    // type = values op type
};
using ConvertLoop = void (*)(void* out, const void* in, size_t count);
using ScaleLoop = void (*)(void* out, const void* in, size_t count, double factor);

struct ReduceKernels {
  // By data type, then sum, min, max, product.
  std::array<std::array<CombineLoops, 4>, kDataTypeCount> combine;
  std::array<ConvertLoop, kDataTypeCount> normalize;  // as if combined with nothing; null: a copy
  std::array<ConvertLoop, kDataTypeCount> widen;      // to float; 16-bit floats only
  std::array<ConvertLoop, kDataTypeCount> narrow;
  std::array<ScaleLoop, kDataTypeCount> scale;  // floating types only
};

const ReduceKernels& baseline_kernels() noexcept;
const ReduceKernels& avx2_kernels() noexcept;
const ReduceKernels& avx512_kernels() noexcept;
const ReduceKernels& avx512_bf16_kernels() noexcept;

// The paths that this processor can run, the best last.
std::span<const ReducePath> reduce_paths() noexcept;
const ReduceKernels& kernels_of(ReducePath path) noexcept;

// reduce() of reduce.h on a path of one's choice, which the processor must have.
void reduce(const ReduceKernels& kernels, const Reduction& reduction, void* destination,
            std::span<const void* const> sources);

}  // namespace khorus::base
