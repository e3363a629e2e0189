// Elementwise reductions and scaling of plain arrays, for every DataType.
//
// Pure functions, callable from any thread. What they promise, so that every rank and every backend
// gets the same bits from the same inputs:
//   - the operands are combined in the order given, one after the other: ((a0 op a1) op a2) ...;
//   - float16 and bfloat16 are combined in float32 and rounded once, when they are stored;
//   - integers wrap around on overflow;
//   - a NaN in any operand of kMin or kMax gives a NaN;
//   - bool: a byte that is not 0 is true; kSum and kMax are or, kProduct and kMin are and.
// kAverage is not a reduction here: reduce with kSum, then scale().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "khorus/types.h"

namespace khorus::base {

// What to do to how many elements of which type.
struct Reduction {
  DataType dtype = DataType::kFloat32;
  ReduceOp op = ReduceOp::kSum;  // not kAverage
  size_t count = 0;              // elements
};

// destination[i] = sources[0][i] op sources[1][i] op ... REQUIRES: at least one source. The
// destination may be one of the sources; arrays that overlap otherwise are an error.
void reduce(const Reduction& reduction, void* destination, std::span<const void* const> sources);

// destination[i] = destination[i] op source[i]. 16-bit floats are rounded at every call: to combine
// more than two arrays use reduce(), or widen() first.
void accumulate(const Reduction& reduction, void* destination, const void* source);

// True for the types that accumulate in float32 instead of themselves.
constexpr bool accumulates_in_float(DataType dtype) noexcept {
  return dtype == DataType::kFloat16 || dtype == DataType::kBfloat16;
}
// To and from float32, for float16 and bfloat16 only.
void widen(DataType dtype, float* destination, const void* source, size_t count);
void narrow(DataType dtype, void* destination, const float* source, size_t count);

// data[i] *= factor. Floats multiply in their own precision (16-bit ones in float32); integers are
// multiplied in float64 and truncated toward zero, and saturate at their limits; NaN becomes 0. A
// factor of 1 changes nothing. bool scales as the integers 0 and 1.
void scale(DataType dtype, void* data, size_t count, double factor);
// data[i] /= divisor, truncated toward zero: what scaling in float64 would give if that were exact
// (it is not: 49 * (1 / 49) is below 1). Integers only. REQUIRES: divisor > 0.
void divide(DataType dtype, void* data, size_t count, int32_t divisor);
// As a copy followed by scale(). The arrays are equal or do not overlap.
void copy_scaled(DataType dtype, void* destination, const void* source, size_t count,
                 double factor);

}  // namespace khorus::base
