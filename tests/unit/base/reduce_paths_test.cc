// Every instruction set's loops against one element at a time: the same bits, for every type and
// operation, whatever the alignment, the number of elements and of sources.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/base/half.h"
#include "core/base/reduce_kernels.h"

namespace khorus::base {
namespace {

using Bytes = std::vector<std::byte>;
constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct};

template <class T>
T get(const Bytes& bytes, size_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
T combine(ReduceOp op, T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (op == ReduceOp::kSum) return a + b;
    if (op == ReduceOp::kProduct) return a * b;
    if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
    // Of two equal values, which differ in the sign of a zero at most, the second.
    return op == ReduceOp::kMin ? (a < b ? a : b) : (a > b ? a : b);
  } else {
    const auto x = static_cast<uint64_t>(a), y = static_cast<uint64_t>(b);
    if (op == ReduceOp::kSum) return static_cast<T>(x + y);
    if (op == ReduceOp::kProduct) return static_cast<T>(x * y);
    return op == ReduceOp::kMin ? std::min(a, b) : std::max(a, b);
  }
}

// Element i, reduced one source after the other.
template <class T>
T reduced(ReduceOp op, const std::vector<Bytes>& sources, size_t i) {
  T value = get<T>(sources[0], i);
  for (size_t s = 1; s < sources.size(); ++s) value = combine(op, value, get<T>(sources[s], i));
  return value;
}
template <class Load>
float reduced_half(ReduceOp op, const std::vector<Bytes>& sources, size_t i, Load load) {
  float value = load(get<uint16_t>(sources[0], i));
  for (size_t s = 1; s < sources.size(); ++s) {
    value = combine(op, value, load(get<uint16_t>(sources[s], i)));
  }
  return value;
}

template <class T>
bool same(const Bytes& result, size_t i, T expected) {
  const T got = get<T>(result, i);
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(expected)) return std::isnan(got);
  }
  return std::memcmp(&got, &expected, sizeof(T)) == 0;
}

bool is_right(DataType dtype, ReduceOp op, const std::vector<Bytes>& sources, const Bytes& result,
              size_t i) {
  switch (dtype) {
    case DataType::kUint8:
      return same(result, i, reduced<uint8_t>(op, sources, i));
    case DataType::kInt8:
      return same(result, i, reduced<int8_t>(op, sources, i));
    case DataType::kInt16:
      return same(result, i, reduced<int16_t>(op, sources, i));
    case DataType::kInt32:
      return same(result, i, reduced<int32_t>(op, sources, i));
    case DataType::kInt64:
      return same(result, i, reduced<int64_t>(op, sources, i));
    case DataType::kFloat32:
      return same(result, i, reduced<float>(op, sources, i));
    case DataType::kFloat64:
      return same(result, i, reduced<double>(op, sources, i));
    case DataType::kFloat16: {
      const float value = reduced_half(op, sources, i, float16_to_float);
      return std::isnan(value) ? std::isnan(float16_to_float(get<uint16_t>(result, i)))
                               : same(result, i, float_to_float16(value));
    }
    case DataType::kBfloat16: {
      const float value = reduced_half(op, sources, i, bfloat16_to_float);
      return std::isnan(value) ? std::isnan(bfloat16_to_float(get<uint16_t>(result, i)))
                               : same(result, i, float_to_bfloat16(value));
    }
    case DataType::kBool: {
      const bool any = op == ReduceOp::kSum || op == ReduceOp::kMax;
      bool value = !any;
      for (const Bytes& source : sources) {
        const bool next = source[i] != std::byte{0};
        value = any ? value || next : value && next;
      }
      return result[i] == std::byte{value};
    }
  }
  return false;
}

// Any bits: NaN, infinities and subnormal numbers among them; bool often 0.
Bytes random_bytes(std::mt19937_64& random, DataType dtype, size_t count) {
  Bytes bytes(count * element_size(dtype));
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (size_t i = 0; i < bytes.size() && dtype == DataType::kBool; i += 2) bytes[i] = std::byte{0};
  return bytes;
}

class EveryPath : public ::testing::TestWithParam<ReducePath> {
 protected:
  const ReduceKernels& kernels() const { return kernels_of(GetParam()); }
};

TEST_P(EveryPath, ReducesToTheSameBits) {
  std::mt19937_64 random(7);
  for (int type = 0; type < kDataTypeCount; ++type) {
    const auto dtype = static_cast<DataType>(type);
    for (const size_t count : {1, 7, 8, 15, 16, 17, 33, 65, 1000, 1024, 2049}) {
      for (size_t number = 1; number <= 5; ++number) {
        // The first elements are left alone, so that nothing is aligned.
        const size_t skipped = number % 3;
        std::vector<Bytes> sources;
        for (size_t s = 0; s < number; ++s) {
          sources.push_back(random_bytes(random, dtype, skipped + count));
        }
        for (const ReduceOp op : kOps) {
          std::vector<const void*> pointers;
          for (const Bytes& source : sources) {
            pointers.push_back(source.data() + skipped * element_size(dtype));
          }
          // In place of the last source, as well as elsewhere.
          Bytes result = sources.back();
          if (number % 2 == 0) pointers.back() = result.data() + skipped * element_size(dtype);
          reduce(kernels(), {dtype, op, count}, result.data() + skipped * element_size(dtype),
                 pointers);
          for (size_t i = skipped; i < skipped + count; ++i) {
            ASSERT_TRUE(is_right(dtype, op, sources, result, i))
                << to_string(op) << " of " << number << " x " << count << " " << to_string(dtype)
                << ", element " << i;
          }
        }
      }
    }
  }
}

TEST_P(EveryPath, WidensEveryPattern) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  for (const DataType dtype : {DataType::kFloat16, DataType::kBfloat16}) {
    std::vector<float> wide(all.size());
    kernels().widen[static_cast<size_t>(dtype)](wide.data(), all.data(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      const float expected =
          dtype == DataType::kFloat16 ? float16_to_float(all[i]) : bfloat16_to_float(all[i]);
      ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(expected)) << i;
    }
  }
}

TEST_P(EveryPath, NarrowsToTheSameBits) {
  std::mt19937 random(8);
  std::vector<float> values(200003);
  for (size_t i = 0; i < values.size(); ++i) {
    // Any bits, and exponents around those of float16.
    const auto bits = static_cast<uint32_t>(random());
    const uint32_t exponent = 100 + bits % 50;
    values[i] = std::bit_cast<float>(i % 2 == 0 ? bits : (bits & 0x807fffffu) | exponent << 23);
  }
  for (const DataType dtype : {DataType::kFloat16, DataType::kBfloat16}) {
    std::vector<uint16_t> narrowed(values.size());
    kernels().narrow[static_cast<size_t>(dtype)](narrowed.data(), values.data(), values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(narrowed[i], dtype == DataType::kFloat16 ? float_to_float16(values[i])
                                                         : float_to_bfloat16(values[i]))
          << std::bit_cast<uint32_t>(values[i]);
    }
  }
}

TEST_P(EveryPath, ScalesToTheSameBits) {
  std::mt19937_64 random(9);
  for (const DataType dtype :
       {DataType::kFloat16, DataType::kBfloat16, DataType::kFloat32, DataType::kFloat64}) {
    const size_t count = 1003;
    const Bytes in = random_bytes(random, dtype, count);
    Bytes out(in.size()), expected(in.size());
    kernels().scale[static_cast<size_t>(dtype)](out.data(), in.data(), count, 1.0 / 3);
    // Element by element goes through the ends of the loops only.
    const size_t width = element_size(dtype);
    for (size_t i = 0; i < count; ++i) {
      baseline_kernels().scale[static_cast<size_t>(dtype)](expected.data() + i * width,
                                                           in.data() + i * width, 1, 1.0 / 3);
    }
    EXPECT_EQ(out, expected) << to_string(dtype);
  }
}

std::string path_name(const ::testing::TestParamInfo<ReducePath>& info) {
  switch (info.param) {
    case ReducePath::kAvx2:
      return "avx2";
    case ReducePath::kAvx512:
      return "avx512";
    case ReducePath::kAvx512Bf16:
      return "avx512_bf16";
    default:
      return "baseline";
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, EveryPath, ::testing::ValuesIn(reduce_paths()), path_name);

}  // namespace
}  // namespace khorus::base
