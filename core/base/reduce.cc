// See reduce.h. What the loops do is in reduce_loops.h; here is which of them are run on what.
#include "core/base/reduce.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/base/assert.h"
#include "core/base/reduce_kernels.h"
#include "core/base/scale_element.h"

namespace khorus::base {
namespace {

// Elements per block: the running values of one block stay in the first-level cache.
constexpr size_t kBlock = 1024;

// Asks anew every time: that is a few loads, and nothing to be kept.
const ReduceKernels& best_kernels() noexcept { return kernels_of(reduce_paths().back()); }

const CombineLoops& loops_for(const ReduceKernels& kernels, const Reduction& reduction) {
  const auto& of_type = kernels.combine[static_cast<size_t>(reduction.dtype)];
  switch (reduction.op) {
    case ReduceOp::kSum:
      return of_type[0];
    case ReduceOp::kMin:
      return of_type[1];
    case ReduceOp::kMax:
      return of_type[2];
    case ReduceOp::kProduct:
      return of_type[3];
    default:
      break;
  }
  KHORUS_ASSERT(false, "not an elementwise reduction: reduce with kSum, then scale");
  return of_type[0];
}

void check_type(DataType dtype) {
  KHORUS_ASSERT(static_cast<int>(dtype) < kDataTypeCount, "an unknown data type");
}

// Three sources or more, block by block; the values of a block are kept aside because the
// destination may be any of the sources.
void reduce_many(const CombineLoops& loops, const Reduction& reduction, void* destination,
                 std::span<const void* const> sources) {
  alignas(64) std::array<std::byte, kBlock * sizeof(double)> values;
  const size_t width = element_size(reduction.dtype);
  for (size_t start = 0; start < reduction.count; start += kBlock) {
    const size_t count = std::min(kBlock, reduction.count - start);
    const auto at = [&](size_t source) {
      return static_cast<const std::byte*>(sources[source]) + start * width;
    };
    loops.first(values.data(), at(0), at(1), count);
    for (size_t s = 2; s + 1 < sources.size(); ++s) {
      loops.middle(values.data(), values.data(), at(s), count);
    }
    loops.last(static_cast<std::byte*>(destination) + start * width, values.data(),
               at(sources.size() - 1), count);
  }
}

template <class T>
void copy_scaled_integers(void* destination, const void* source, size_t count, double factor) {
  auto* out = static_cast<T*>(destination);
  const auto* in = static_cast<const T*>(source);
  for (size_t i = 0; i < count; ++i) out[i] = scaled_integer(in[i], factor);
}

void copy_scaled_bools(void* destination, const void* source, size_t count, double factor) {
  auto* out = static_cast<uint8_t*>(destination);
  const auto* in = static_cast<const uint8_t*>(source);
  for (size_t i = 0; i < count; ++i) out[i] = scaled_bool(in[i], factor);
}

template <class T>
void divide_integers(void* data, size_t count, int32_t divisor) {
  T* const values = static_cast<T*>(data);
  for (size_t i = 0; i < count; ++i) values[i] = divided_integer(values[i], divisor);
}

}  // namespace

std::span<const ReducePath> reduce_paths() noexcept {
  static constexpr std::array kAll{ReducePath::kBaseline, ReducePath::kAvx2, ReducePath::kAvx512,
                                   ReducePath::kAvx512Bf16};
  __builtin_cpu_init();  // at once if it was done before
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  return std::span(kAll).first(size_t{1} + (avx2 ? 1 : 0) + (avx512 ? 1 : 0) + (bf16 ? 1 : 0));
}

const ReduceKernels& kernels_of(ReducePath path) noexcept {
  switch (path) {
    case ReducePath::kAvx512Bf16:
      return avx512_bf16_kernels();
    case ReducePath::kAvx512:
      return avx512_kernels();
    case ReducePath::kAvx2:
      return avx2_kernels();
    default:
      return baseline_kernels();
  }
}

void reduce(const ReduceKernels& kernels, const Reduction& reduction, void* destination,
            std::span<const void* const> sources) {
  KHORUS_ASSERT(!sources.empty(), "a reduction of no arrays");
  check_type(reduction.dtype);
  const CombineLoops& loops = loops_for(kernels, reduction);
  if (reduction.count == 0) return;
  if (sources.size() > 2) return reduce_many(loops, reduction, destination, sources);
  if (sources.size() == 2) {
    return loops.both(destination, sources[0], sources[1], reduction.count);
  }
  const ConvertLoop normalize = kernels.normalize[static_cast<size_t>(reduction.dtype)];
  if (normalize != nullptr) return normalize(destination, sources[0], reduction.count);
  if (destination != sources[0]) {
    std::memcpy(destination, sources[0], reduction.count * element_size(reduction.dtype));
  }
}

void reduce(const Reduction& reduction, void* destination, std::span<const void* const> sources) {
  reduce(best_kernels(), reduction, destination, sources);
}

void accumulate(const Reduction& reduction, void* destination, const void* source) {
  check_type(reduction.dtype);
  loops_for(best_kernels(), reduction).both(destination, destination, source, reduction.count);
}

void widen(DataType dtype, float* destination, const void* source, size_t count) {
  KHORUS_ASSERT(accumulates_in_float(dtype), "only 16-bit floats are widened");
  best_kernels().widen[static_cast<size_t>(dtype)](destination, source, count);
}

void narrow(DataType dtype, void* destination, const float* source, size_t count) {
  KHORUS_ASSERT(accumulates_in_float(dtype), "only 16-bit floats are narrowed");
  best_kernels().narrow[static_cast<size_t>(dtype)](destination, source, count);
}

void scale(DataType dtype, void* data, size_t count, double factor) {
  if (factor == 1.0) return;
  copy_scaled(dtype, data, data, count, factor);
}

void divide(DataType dtype, void* data, size_t count, int32_t divisor) {
  KHORUS_ASSERT(divisor > 0, "a division by less than one");
  switch (dtype) {
    case DataType::kUint8:
      return divide_integers<uint8_t>(data, count, divisor);
    case DataType::kInt8:
      return divide_integers<int8_t>(data, count, divisor);
    case DataType::kInt16:
      return divide_integers<int16_t>(data, count, divisor);
    case DataType::kInt32:
      return divide_integers<int32_t>(data, count, divisor);
    case DataType::kInt64:
      return divide_integers<int64_t>(data, count, divisor);
    default:
      KHORUS_ASSERT(false, "only integers are divided; scale the others");
  }
}

void copy_scaled(DataType dtype, void* destination, const void* source, size_t count,
                 double factor) {
  check_type(dtype);
  if (count == 0) return;
  if (factor == 1.0) {
    if (destination != source) std::memcpy(destination, source, count * element_size(dtype));
    return;
  }
  switch (dtype) {
    case DataType::kUint8:
      return copy_scaled_integers<uint8_t>(destination, source, count, factor);
    case DataType::kInt8:
      return copy_scaled_integers<int8_t>(destination, source, count, factor);
    case DataType::kInt16:
      return copy_scaled_integers<int16_t>(destination, source, count, factor);
    case DataType::kInt32:
      return copy_scaled_integers<int32_t>(destination, source, count, factor);
    case DataType::kInt64:
      return copy_scaled_integers<int64_t>(destination, source, count, factor);
    case DataType::kBool:
      return copy_scaled_bools(destination, source, count, factor);
    default:
      return best_kernels().scale[static_cast<size_t>(dtype)](destination, source, count, factor);
  }
}

}  // namespace khorus::base
