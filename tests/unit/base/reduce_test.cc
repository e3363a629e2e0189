// Reductions and scaling. Values over all types are compared in tests/conformance; here are the
// promises of reduce.h at their edges.
#include "core/base/reduce.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "core/base/half.h"

namespace khorus::base {
namespace {

template <class T>
std::vector<T> reduced(DataType dtype, ReduceOp op, const std::vector<std::vector<T>>& arrays) {
  std::vector<const void*> sources;
  for (const auto& array : arrays) sources.push_back(array.data());
  std::vector<T> result(arrays[0].size());
  reduce({dtype, op, result.size()}, result.data(), sources);
  return result;
}

template <class T>
std::vector<T> scaled(DataType dtype, std::vector<T> data, double factor) {
  std::vector<T> copy(data.size());
  copy_scaled(dtype, copy.data(), data.data(), data.size(), factor);
  scale(dtype, data.data(), data.size(), factor);
  EXPECT_EQ(copy, data) << "scale and copy_scaled differ";
  return data;
}

TEST(Reduce, IntegersWrapAround) {
  using Bytes = std::vector<uint8_t>;
  EXPECT_EQ(reduced<uint8_t>(DataType::kUint8, ReduceOp::kSum, {{200}, {100}}), Bytes{44});
  EXPECT_EQ(reduced<uint8_t>(DataType::kUint8, ReduceOp::kProduct, {{16}, {17}}), Bytes{16});
  constexpr int16_t kMost = std::numeric_limits<int16_t>::max();
  EXPECT_EQ(reduced<int16_t>(DataType::kInt16, ReduceOp::kProduct, {{kMost}, {kMost}}),
            std::vector<int16_t>{1});
  constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(reduced<int64_t>(DataType::kInt64, ReduceOp::kSum, {{kLeast}, {-1}}),
            std::vector<int64_t>{std::numeric_limits<int64_t>::max()});
}

TEST(Reduce, BoolIsOrAndAnd) {
  const std::vector<std::vector<uint8_t>> arrays{{0, 0, 1, 2}, {0, 1, 0, 1}};
  const std::vector<uint8_t> any{0, 1, 1, 1};
  const std::vector<uint8_t> all{0, 0, 0, 1};
  EXPECT_EQ(reduced(DataType::kBool, ReduceOp::kSum, arrays), any);
  EXPECT_EQ(reduced(DataType::kBool, ReduceOp::kMax, arrays), any);
  EXPECT_EQ(reduced(DataType::kBool, ReduceOp::kProduct, arrays), all);
  EXPECT_EQ(reduced(DataType::kBool, ReduceOp::kMin, arrays), all);
}

TEST(Reduce, NanWinsMinAndMaxFromEitherSide) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const ReduceOp op : {ReduceOp::kMin, ReduceOp::kMax}) {
    const auto result = reduced<float>(DataType::kFloat32, op, {{nan, 1, 2}, {1, nan, 3}});
    EXPECT_TRUE(std::isnan(result[0]));
    EXPECT_TRUE(std::isnan(result[1]));
    EXPECT_EQ(result[2], op == ReduceOp::kMin ? 2 : 3);
  }
}

TEST(Reduce, OrderIsThatOfTheSources) {
  // (1e30 - 1e30) + 1 = 1, but 1e30 + (-1e30 + 1) = 0.
  EXPECT_EQ(reduced<double>(DataType::kFloat64, ReduceOp::kSum, {{1e30}, {-1e30}, {1}}),
            std::vector<double>{1});
  EXPECT_EQ(reduced<double>(DataType::kFloat64, ReduceOp::kSum, {{1}, {1e30}, {-1e30}}),
            std::vector<double>{0});
}

// 1 + 256 times 2^-9: each addition alone is lost in bfloat16 and even in float16's rounding at 1.
TEST(Reduce, SixteenBitFloatsAccumulateInFloat) {
  std::vector<std::vector<uint16_t>> arrays{{float_to_bfloat16(1)}};
  for (int i = 0; i < 256; ++i) arrays.push_back({float_to_bfloat16(0x1p-9f)});
  EXPECT_EQ(reduced(DataType::kBfloat16, ReduceOp::kSum, arrays),
            std::vector<uint16_t>{float_to_bfloat16(1.5f)});
}

TEST(Reduce, DestinationMayBeAnySource) {
  constexpr size_t kCount = 5000;  // several blocks
  for (size_t which = 0; which < 3; ++which) {
    std::vector<std::vector<int32_t>> arrays(3, std::vector<int32_t>(kCount));
    for (size_t r = 0; r < 3; ++r) {
      std::iota(arrays[r].begin(), arrays[r].end(), static_cast<int32_t>(r * 100));
    }
    const std::vector<const void*> sources{arrays[0].data(), arrays[1].data(), arrays[2].data()};
    reduce({DataType::kInt32, ReduceOp::kSum, kCount}, arrays[which].data(), sources);
    for (size_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(arrays[which][i], static_cast<int32_t>(3 * i + 300)) << i;
    }
  }
}

TEST(Accumulate, AddsInPlace) {
  std::vector<float> sum{1, 2, 3};
  const std::vector<float> next{10, 20, 30};
  accumulate({DataType::kFloat32, ReduceOp::kSum, 3}, sum.data(), next.data());
  EXPECT_EQ(sum, (std::vector<float>{11, 22, 33}));
}

TEST(WidenAndNarrow, AreInverse) {
  const std::vector<uint16_t> halves{0x0001, 0x3c00, 0x7bff, 0xfc00, 0x8000};
  for (const DataType dtype : {DataType::kFloat16, DataType::kBfloat16}) {
    std::vector<float> wide(halves.size());
    std::vector<uint16_t> narrowed(halves.size());
    widen(dtype, wide.data(), halves.data(), halves.size());
    narrow(dtype, narrowed.data(), wide.data(), wide.size());
    EXPECT_EQ(narrowed, halves);
  }
}

TEST(Scale, IntegersTruncateTowardZero) {
  EXPECT_EQ(scaled<int32_t>(DataType::kInt32, {7, -7, 6, 0}, 1.0 / 4),
            (std::vector<int32_t>{1, -1, 1, 0}));
  EXPECT_EQ(scaled<uint8_t>(DataType::kUint8, {255, 3}, 0.5), (std::vector<uint8_t>{127, 1}));
}

TEST(Scale, IntegersSaturate) {
  using Int64 = std::numeric_limits<int64_t>;
  EXPECT_EQ(scaled<int64_t>(DataType::kInt64, {Int64::max(), Int64::min(), 5}, 4.0),
            (std::vector<int64_t>{Int64::max(), Int64::min(), 20}));
  EXPECT_EQ(scaled<int8_t>(DataType::kInt8, {100, -100}, 2.0), (std::vector<int8_t>{127, -128}));
  EXPECT_EQ(scaled<uint8_t>(DataType::kUint8, {1, 200}, -1.0), (std::vector<uint8_t>{0, 0}));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(scaled<int32_t>(DataType::kInt32, {5}, nan), std::vector<int32_t>{0});
}

TEST(Scale, FloatsAndBool) {
  EXPECT_EQ(scaled<float>(DataType::kFloat32, {3, -1}, 0.5), (std::vector<float>{1.5f, -0.5f}));
  EXPECT_EQ(scaled<uint16_t>(DataType::kFloat16, {float_to_float16(3)}, 0.5),
            std::vector<uint16_t>{float_to_float16(1.5f)});
  EXPECT_EQ(scaled<uint8_t>(DataType::kBool, {0, 1}, 2.0), (std::vector<uint8_t>{0, 1}));
  EXPECT_EQ(scaled<uint8_t>(DataType::kBool, {0, 1}, 0.5), (std::vector<uint8_t>{0, 0}));
}

TEST(Scale, OneChangesNothing) {
  // Above 2^53 a trip through float64 would.
  const int64_t odd = (int64_t{1} << 60) + 1;
  EXPECT_EQ(scaled<int64_t>(DataType::kInt64, {odd}, 1.0), std::vector<int64_t>{odd});
}

TEST(Divide, IsExactAndTruncatesTowardZero) {
  std::vector<int64_t> wide{49, -50, (int64_t{1} << 60) + 1, 0};
  divide(DataType::kInt64, wide.data(), wide.size(), 49);
  EXPECT_EQ(wide, (std::vector<int64_t>{1, -1, ((int64_t{1} << 60) + 1) / 49, 0}));
  std::vector<uint8_t> narrow{255, 2, 3};
  divide(DataType::kUint8, narrow.data(), narrow.size(), 3);
  EXPECT_EQ(narrow, (std::vector<uint8_t>{85, 0, 1}));
  divide(DataType::kUint8, narrow.data(), narrow.size(), 1000);
  EXPECT_EQ(narrow, (std::vector<uint8_t>{0, 0, 0}));
  std::vector<int32_t> extreme{std::numeric_limits<int32_t>::min()};
  divide(DataType::kInt32, extreme.data(), 1, 2);
  EXPECT_EQ(extreme.front(), -(1 << 30));
}

TEST(EmptyArrays, AreFine) {
  const std::vector<const void*> sources{nullptr, nullptr};
  reduce({DataType::kFloat16, ReduceOp::kSum, 0}, nullptr, sources);
  scale(DataType::kInt8, nullptr, 0, 0.5);
  copy_scaled(DataType::kFloat32, nullptr, nullptr, 0, 1.0);
}

}  // namespace
}  // namespace khorus::base
