// See reference.h.
#include "tests/conformance/reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace khorus::conformance {
namespace {

// The generator of Steele, Lea and Flood (2014): a few instructions per number.
struct SplitMix {
  uint64_t state;
  uint64_t operator()() {
    state += 0x9e3779b97f4a7c15;
    uint64_t mixed = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
    return mixed ^ (mixed >> 31);
  }
};

// A binary floating-point format: significand bits after the point, exponent range of normal
// numbers.
struct Format {
  int fraction_bits;
  int min_exponent;
  int max_exponent;
};
// Not constexpr: compared by address.
const Format kFloat16{10, -14, 15};
const Format kBfloat16{7, -126, 127};

const Format& format_of(DataType dtype) {
  return dtype == DataType::kFloat16 ? kFloat16 : kBfloat16;
}

double decode_slowly(uint16_t bits, const Format& format) {
  const int fraction = bits & ((1 << format.fraction_bits) - 1);
  const int exponent = (bits & 0x7fff) >> format.fraction_bits;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  const int all_ones = format.max_exponent - format.min_exponent + 2;
  if (exponent == all_ones) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  const int power = std::max(exponent, 1) + format.min_exponent - 1 - format.fraction_bits;
  const int significand = fraction + (exponent > 0 ? 1 << format.fraction_bits : 0);
  return sign * std::ldexp(significand, power);
}

double decode(uint16_t bits, const Format& format) {
  const auto make_table = [](const Format& of) {
    std::vector<double> table;
    for (uint32_t i = 0; i < 65536; ++i) {
      table.push_back(decode_slowly(static_cast<uint16_t>(i), of));
    }
    return table;
  };
  static const std::vector<double> float16_table = make_table(kFloat16);
  static const std::vector<double> bfloat16_table = make_table(kBfloat16);
  return (&format == &kFloat16 ? float16_table : bfloat16_table)[bits];
}

uint16_t encode(double value, const Format& format) {
  const unsigned sign = std::signbit(value) ? 0x8000u : 0;
  const unsigned infinity = static_cast<unsigned>(format.max_exponent - format.min_exponent + 2)
                            << format.fraction_bits;
  if (std::isnan(value)) return static_cast<uint16_t>(infinity | (infinity >> 1 & ~infinity));
  const double magnitude = std::fabs(value);
  if (std::isinf(magnitude)) return static_cast<uint16_t>(sign | infinity);
  int exponent = magnitude == 0 ? format.min_exponent : std::ilogb(magnitude);
  exponent = std::max(exponent, format.min_exponent);
  // nearbyint rounds to even; a carry into the next power of two comes out right below.
  const double units = std::nearbyint(std::ldexp(magnitude, format.fraction_bits - exponent));
  const double bits = units + std::ldexp(exponent - format.min_exponent, format.fraction_bits);
  return static_cast<uint16_t>(sign | std::min(static_cast<unsigned>(bits), infinity));
}

template <class T>
T get(const Bytes& bytes, size_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
  return value;
}
template <class T>
void put(Bytes& bytes, size_t i, T value) {
  std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
}

template <class T>
T combine_floats(ReduceOp op, T a, T b) {
  switch (op) {
    case ReduceOp::kSum:
      return a + b;
    case ReduceOp::kProduct:
      return a * b;
    case ReduceOp::kMin:
      return std::isnan(a) || std::isnan(b) ? a + b : std::min(a, b);
    case ReduceOp::kMax:
      return std::isnan(a) || std::isnan(b) ? a + b : std::max(a, b);
    default:
      break;
  }
  return a;
}

template <class T>
T combine_integers(ReduceOp op, T a, T b) {
  const uint64_t x = static_cast<uint64_t>(a);
  const uint64_t y = static_cast<uint64_t>(b);
  switch (op) {
    case ReduceOp::kSum:
      return static_cast<T>(x + y);
    case ReduceOp::kProduct:
      return static_cast<T>(x * y);
    case ReduceOp::kMin:
      return std::min(a, b);
    case ReduceOp::kMax:
      return std::max(a, b);
    default:
      break;
  }
  return a;
}

uint8_t combine_bools(ReduceOp op, uint8_t a, uint8_t b) {
  const bool any = op == ReduceOp::kSum || op == ReduceOp::kMax;
  return static_cast<uint8_t>(any ? (a != 0 || b != 0) : (a != 0 && b != 0));
}

// Calls combine(accumulated, next) in rank order for every element.
template <class T, class Combine>
Bytes fold(std::span<const Bytes> inputs, Combine&& combine) {
  Bytes result = inputs[0];
  for (const Bytes& input : inputs.subspan(1)) {
    for (size_t i = 0; i < input.size() / sizeof(T); ++i) {
      put<T>(result, i, combine(get<T>(result, i), get<T>(input, i)));
    }
  }
  return result;
}

Bytes fold_narrow(DataType dtype, ReduceOp op, std::span<const Bytes> inputs) {
  const Format& format = format_of(dtype);
  Bytes result = inputs[0];
  for (size_t i = 0; i < result.size() / 2; ++i) {
    float sum = static_cast<float>(decode(get<uint16_t>(inputs[0], i), format));
    for (const Bytes& input : inputs.subspan(1)) {
      sum = combine_floats(op, sum, static_cast<float>(decode(get<uint16_t>(input, i), format)));
    }
    put(result, i, encode(sum, format));
  }
  return result;
}

template <class T>
Bytes fold_integers(ReduceOp op, std::span<const Bytes> inputs) {
  return fold<T>(inputs, [op](T a, T b) { return combine_integers(op, a, b); });
}
template <class T>
Bytes fold_floats(ReduceOp op, std::span<const Bytes> inputs) {
  return fold<T>(inputs, [op](T a, T b) { return combine_floats(op, a, b); });
}

bool is_floating(DataType dtype) {
  return dtype == DataType::kFloat16 || dtype == DataType::kBfloat16 ||
         dtype == DataType::kFloat32 || dtype == DataType::kFloat64;
}

// Half a unit in the last place, relative.
double rounding_of(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat16:
      return 0x1p-11;
    case DataType::kBfloat16:
      return 0x1p-8;
    case DataType::kFloat32:
      return 0x1p-24;
    default:
      return 0x1p-53;
  }
}

}  // namespace

Bytes make_values(DataType dtype, size_t count, uint64_t seed) {
  SplitMix random{seed};
  Bytes bytes(count * element_size(dtype));
  for (size_t i = 0; i < count; ++i) {
    const uint64_t bits = random();
    // From +-0.5 to +-2.
    const double real =
        (0.5 + 1.5 * static_cast<double>(bits >> 11) * 0x1p-53) * ((bits & 1) != 0 ? -1 : 1);
    switch (dtype) {
      case DataType::kUint8:
      case DataType::kInt8:
        put(bytes, i, static_cast<uint8_t>(bits));
        break;
      case DataType::kInt16:
        put(bytes, i, static_cast<uint16_t>(bits));
        break;
      case DataType::kInt32:
        put(bytes, i, static_cast<uint32_t>(bits));
        break;
      case DataType::kInt64:
        put(bytes, i, bits);
        break;
      case DataType::kFloat16:
      case DataType::kBfloat16:
        put(bytes, i, encode(real, format_of(dtype)));
        break;
      case DataType::kFloat32:
        put(bytes, i, static_cast<float>(real));
        break;
      case DataType::kFloat64:
        put(bytes, i, real);
        break;
      case DataType::kBool:
        put(bytes, i, static_cast<uint8_t>(bits & 1));
        break;
    }
  }
  return bytes;
}

double value_at(DataType dtype, const Bytes& bytes, size_t i) {
  switch (dtype) {
    case DataType::kUint8:
    case DataType::kBool:
      return get<uint8_t>(bytes, i);
    case DataType::kInt8:
      return get<int8_t>(bytes, i);
    case DataType::kInt16:
      return get<int16_t>(bytes, i);
    case DataType::kInt32:
      return get<int32_t>(bytes, i);
    case DataType::kInt64:
      return static_cast<double>(get<int64_t>(bytes, i));
    case DataType::kFloat16:
    case DataType::kBfloat16:
      return decode(get<uint16_t>(bytes, i), format_of(dtype));
    case DataType::kFloat32:
      return static_cast<double>(get<float>(bytes, i));
    case DataType::kFloat64:
      return get<double>(bytes, i);
  }
  return 0;
}

Bytes reduce_in_rank_order(DataType dtype, ReduceOp op, std::span<const Bytes> inputs) {
  switch (dtype) {
    case DataType::kUint8:
      return fold_integers<uint8_t>(op, inputs);
    case DataType::kInt8:
      return fold_integers<int8_t>(op, inputs);
    case DataType::kInt16:
      return fold_integers<int16_t>(op, inputs);
    case DataType::kInt32:
      return fold_integers<int32_t>(op, inputs);
    case DataType::kInt64:
      return fold_integers<int64_t>(op, inputs);
    case DataType::kFloat16:
    case DataType::kBfloat16:
      return fold_narrow(dtype, op, inputs);
    case DataType::kFloat32:
      return fold_floats<float>(op, inputs);
    case DataType::kFloat64:
      return fold_floats<double>(op, inputs);
    case DataType::kBool:
      return fold<uint8_t>(inputs, [op](uint8_t a, uint8_t b) { return combine_bools(op, a, b); });
  }
  return {};
}

::testing::AssertionResult is_close(DataType dtype, ReduceOp op, std::span<const Bytes> inputs,
                                    const Bytes& output) {
  if (!is_floating(dtype)) {
    return output == reduce_in_rank_order(dtype, op, inputs)
               ? ::testing::AssertionSuccess()
               : ::testing::AssertionFailure() << "integers differ from the exact result";
  }
  for (size_t i = 0; i < output.size() / element_size(dtype); ++i) {
    double exact = value_at(dtype, inputs[0], i);
    double magnitude = std::fabs(exact);
    for (const Bytes& input : inputs.subspan(1)) {
      const double next = value_at(dtype, input, i);
      exact = combine_floats(op, exact, next);
      magnitude = op == ReduceOp::kProduct ? std::fabs(exact) : magnitude + std::fabs(next);
    }
    const double bound = magnitude * rounding_of(dtype) * 2 * static_cast<double>(inputs.size());
    const double got = value_at(dtype, output, i);
    if (!(std::fabs(got - exact) <= bound)) {
      return ::testing::AssertionFailure()
             << "element " << i << " is " << got << ", exactly " << exact << ", bound " << bound;
    }
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult is_promised(const khorus_backend& backend, const Reduced& what,
                                       const Bytes& output) {
  if (backend.finish != nullptr) return is_close(what.dtype, what.op, what.inputs, output);
  return output == what.expected
             ? ::testing::AssertionSuccess()
             : ::testing::AssertionFailure() << "not the bits of a reduction in rank order";
}

}  // namespace khorus::conformance
