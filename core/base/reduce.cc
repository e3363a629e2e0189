// See reduce.h. The loops are plain and without aliasing tricks: the compiler vectorises them. Each
// type has a format (how it is stored, in what it is combined); each operation a functor.
#include "core/base/reduce.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/base/assert.h"
#include "core/base/half.h"

namespace khorus::base {
namespace {

// How a type is stored in memory and in which type it is combined.
template <class T>
struct PlainFormat {
  using Stored = T;
  using Value = T;
  static Value load(Stored stored) { return stored; }
  static Stored store(Value value) { return value; }
};
struct Float16Format {
  using Stored = uint16_t;
  using Value = float;
  static Value load(Stored stored) { return float16_to_float(stored); }
  static Stored store(Value value) { return float_to_float16(value); }
};
struct Bfloat16Format {
  using Stored = uint16_t;
  using Value = float;
  static Value load(Stored stored) { return bfloat16_to_float(stored); }
  static Stored store(Value value) { return float_to_bfloat16(value); }
};
struct BoolFormat {
  using Stored = uint8_t;
  using Value = bool;
  static Value load(Stored stored) { return stored != 0; }
  static Stored store(Value value) { return value ? 1 : 0; }
};

// An unsigned type in which T's arithmetic wraps instead of being undefined; at least 32 bits, so
// that no operand is promoted to a signed int.
template <class T>
using Wrapping = std::conditional_t<(sizeof(T) < 4), uint32_t, std::make_unsigned_t<T>>;

struct Sum {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_same_v<T, bool>) {
      return a | b;
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(static_cast<Wrapping<T>>(a) + static_cast<Wrapping<T>>(b));
    } else {
      return a + b;
    }
  }
};
struct Product {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_same_v<T, bool>) {
      return a & b;
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(static_cast<Wrapping<T>>(a) * static_cast<Wrapping<T>>(b));
    } else {
      return a * b;
    }
  }
};
struct Min {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      return (a < b) | (a != a) ? a : b;  // a NaN on either side wins
    } else {
      return a < b ? a : b;
    }
  }
};
struct Max {
  template <class T>
  static T apply(T a, T b) {
    if constexpr (std::is_floating_point_v<T>) {
      return (a > b) | (a != a) ? a : b;
    } else {
      return a > b ? a : b;
    }
  }
};

// Elements per block: the running values of one block stay in the first-level cache.
constexpr size_t kBlock = 1024;

template <class Format, class Op>
void reduce_typed(void* destination, std::span<const void* const> sources, size_t count) {
  using Stored = typename Format::Stored;
  std::array<typename Format::Value, kBlock> values;
  for (size_t start = 0; start < count; start += kBlock) {
    const size_t block = std::min(kBlock, count - start);
    const Stored* first = static_cast<const Stored*>(sources[0]) + start;
    for (size_t i = 0; i < block; ++i) values[i] = Format::load(first[i]);
    for (const void* source : sources.subspan(1)) {
      const Stored* next = static_cast<const Stored*>(source) + start;
      for (size_t i = 0; i < block; ++i) values[i] = Op::apply(values[i], Format::load(next[i]));
    }
    Stored* out = static_cast<Stored*>(destination) + start;
    for (size_t i = 0; i < block; ++i) out[i] = Format::store(values[i]);
  }
}

template <class Format, class Op>
void accumulate_typed(void* destination, const void* source, size_t count) {
  auto* out = static_cast<typename Format::Stored*>(destination);
  const auto* in = static_cast<const typename Format::Stored*>(source);
  for (size_t i = 0; i < count; ++i) {
    out[i] = Format::store(Op::apply(Format::load(out[i]), Format::load(in[i])));
  }
}

// Calls visitor.template operator()<Format>() with the format of `dtype`.
template <class Visitor>
void visit_format(DataType dtype, Visitor&& visitor) {
  switch (dtype) {
    case DataType::kUint8:
      return visitor.template operator()<PlainFormat<uint8_t>>();
    case DataType::kInt8:
      return visitor.template operator()<PlainFormat<int8_t>>();
    case DataType::kInt16:
      return visitor.template operator()<PlainFormat<int16_t>>();
    case DataType::kInt32:
      return visitor.template operator()<PlainFormat<int32_t>>();
    case DataType::kInt64:
      return visitor.template operator()<PlainFormat<int64_t>>();
    case DataType::kFloat16:
      return visitor.template operator()<Float16Format>();
    case DataType::kBfloat16:
      return visitor.template operator()<Bfloat16Format>();
    case DataType::kFloat32:
      return visitor.template operator()<PlainFormat<float>>();
    case DataType::kFloat64:
      return visitor.template operator()<PlainFormat<double>>();
    case DataType::kBool:
      return visitor.template operator()<BoolFormat>();
  }
  KHORUS_ASSERT(false, "an unknown data type");
}

template <class Visitor>
void visit(const Reduction& reduction, Visitor&& visitor) {
  visit_format(reduction.dtype, [&]<class Format>() {
    switch (reduction.op) {
      case ReduceOp::kSum:
        return visitor.template operator()<Format, Sum>();
      case ReduceOp::kMin:
        return visitor.template operator()<Format, Min>();
      case ReduceOp::kMax:
        return visitor.template operator()<Format, Max>();
      case ReduceOp::kProduct:
        return visitor.template operator()<Format, Product>();
      default:
        break;
    }
    KHORUS_ASSERT(false, "not an elementwise reduction: reduce with kSum, then scale");
  });
}

// Toward zero, saturating; NaN becomes 0. The limits of int64 round up to 2^63, which no int64
// reaches, hence the closed comparisons.
template <class T>
T truncate(double value) {
  using Limits = std::numeric_limits<T>;
  if (value >= static_cast<double>(Limits::max())) return Limits::max();
  if (value <= static_cast<double>(Limits::min())) return Limits::min();
  return value == value ? static_cast<T>(value) : T{0};
}

template <class Format>
void copy_scaled_typed(void* destination, const void* source, size_t count, double factor) {
  using Value = typename Format::Value;
  auto* out = static_cast<typename Format::Stored*>(destination);
  const auto* in = static_cast<const typename Format::Stored*>(source);
  if constexpr (std::is_floating_point_v<Value>) {
    const Value typed_factor = static_cast<Value>(factor);
    for (size_t i = 0; i < count; ++i) {
      out[i] = Format::store(Format::load(in[i]) * typed_factor);
    }
  } else {
    // A conversion of 0.5 to bool would be true.
    using Integer = std::conditional_t<std::is_same_v<Value, bool>, uint8_t, Value>;
    for (size_t i = 0; i < count; ++i) {
      out[i] = Format::store(truncate<Integer>(static_cast<double>(Format::load(in[i])) * factor));
    }
  }
}

}  // namespace

void reduce(const Reduction& reduction, void* destination, std::span<const void* const> sources) {
  KHORUS_ASSERT(!sources.empty(), "a reduction of no arrays");
  visit(reduction, [&]<class Format, class Op>() {
    reduce_typed<Format, Op>(destination, sources, reduction.count);
  });
}

void accumulate(const Reduction& reduction, void* destination, const void* source) {
  visit(reduction, [&]<class Format, class Op>() {
    accumulate_typed<Format, Op>(destination, source, reduction.count);
  });
}

void widen(DataType dtype, float* destination, const void* source, size_t count) {
  KHORUS_ASSERT(accumulates_in_float(dtype), "only 16-bit floats are widened");
  const auto* in = static_cast<const uint16_t*>(source);
  if (dtype == DataType::kFloat16) {
    for (size_t i = 0; i < count; ++i) destination[i] = float16_to_float(in[i]);
  } else {
    for (size_t i = 0; i < count; ++i) destination[i] = bfloat16_to_float(in[i]);
  }
}

void narrow(DataType dtype, void* destination, const float* source, size_t count) {
  KHORUS_ASSERT(accumulates_in_float(dtype), "only 16-bit floats are narrowed");
  auto* out = static_cast<uint16_t*>(destination);
  if (dtype == DataType::kFloat16) {
    for (size_t i = 0; i < count; ++i) out[i] = float_to_float16(source[i]);
  } else {
    for (size_t i = 0; i < count; ++i) out[i] = float_to_bfloat16(source[i]);
  }
}

void scale(DataType dtype, void* data, size_t count, double factor) {
  if (factor == 1.0) return;
  copy_scaled(dtype, data, data, count, factor);
}

void copy_scaled(DataType dtype, void* destination, const void* source, size_t count,
                 double factor) {
  if (count == 0) return;
  if (factor == 1.0) {
    if (destination != source) std::memcpy(destination, source, count * element_size(dtype));
    return;
  }
  visit_format(dtype, [&]<class Format>() {
    copy_scaled_typed<Format>(destination, source, count, factor);
  });
}

}  // namespace khorus::base
