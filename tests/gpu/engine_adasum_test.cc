// Adasum of device tensors, by kernels and by what stands in for them: the definition's values, and
// the same bits on all ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/base/half.h"
#include "tests/adasum.h"
#include "tests/gpu/engines.h"

namespace khorus::test {
namespace {

using testing::HasSubstr;

// How a type is stored, and how far a value of magnitude 2 may be from the definition's.
struct Float64 {
  using Stored = double;
  static constexpr DataType kDataType = DataType::kFloat64;
  static constexpr double kTolerance = 1e-12;
  static Stored stored(double value) { return value; }
  static double value(Stored stored) { return stored; }
};
struct Float32 {
  using Stored = float;
  static constexpr DataType kDataType = DataType::kFloat32;
  static constexpr double kTolerance = 1e-5;
  static Stored stored(double value) { return static_cast<float>(value); }
  static double value(Stored stored) { return stored; }
};
struct Float16 {
  using Stored = uint16_t;
  static constexpr DataType kDataType = DataType::kFloat16;
  static constexpr double kTolerance = 2e-3;  // rounded once to 11 bits
  static Stored stored(double value) { return base::float_to_float16(static_cast<float>(value)); }
  static double value(Stored stored) { return base::float16_to_float(stored); }
};
struct Bfloat16 {
  using Stored = uint16_t;
  static constexpr DataType kDataType = DataType::kBfloat16;
  static constexpr double kTolerance = 2e-2;  // to 8 bits
  static Stored stored(double value) { return base::float_to_bfloat16(static_cast<float>(value)); }
  static double value(Stored stored) { return base::bfloat16_to_float(stored); }
};

template <class Type>
void compare_with_definition(int size, size_t count, AllreduceOptions options) {
  using Stored = typename Type::Stored;
  std::vector<std::vector<Stored>> inputs;
  std::vector<std::vector<double>> scaled;
  for (const std::vector<double>& vector : adasum_vectors(size, count)) {
    std::vector<Stored>& input = inputs.emplace_back(count);
    std::transform(vector.begin(), vector.end(), input.begin(), Type::stored);
    for (double& value : scaled.emplace_back(vector)) {
      value = options.prescale * Type::value(Type::stored(value));
    }
  }
  const std::vector<double> expected = adasum_of(scaled);
  std::vector<std::vector<Stored>> results(static_cast<size_t>(size));
  on_gpus(size, [&](Engine& engine, Framework& gpu) {
    const auto me = static_cast<size_t>(engine.rank());
    const TensorView input = gpu.tensor(inputs[me], Type::kDataType);
    const TensorView output = gpu.tensor(std::vector<Stored>(count), Type::kDataType);
    const Status status = engine.allreduce_async("x", input, output, options)->wait();
    ASSERT_TRUE(status.ok()) << status.to_string();
    results[me] = gpu.read<Stored>(output);
    EXPECT_EQ(gpu.read<Stored>(input), inputs[me]) << "the input is not written";
  });
  for (size_t i = 0; i < count; ++i) {
    ASSERT_NEAR(Type::value(results[0][i]), options.postscale * expected[i], Type::kTolerance)
        << i << " of " << count << ", " << size << " ranks";
  }
  for (const std::vector<Stored>& result : results) EXPECT_EQ(result, results[0]);
}

class GpuAdasum : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, GpuAdasum, testing::Values(1, 2, 4, 8));

TEST_P(GpuAdasum, FollowsItsDefinition) {
  for (const size_t count : {1U, 3U, 7U, 1000U, 20001U}) {
    compare_with_definition<Float32>(GetParam(), count, with(ReduceOp::kAdasum));
    compare_with_definition<Float64>(GetParam(), count, with(ReduceOp::kAdasum));
  }
}

TEST_P(GpuAdasum, RoundsShortFloatsOnce) {
  for (const size_t count : {1U, 7U, 1000U}) {
    compare_with_definition<Float16>(GetParam(), count, with(ReduceOp::kAdasum));
    compare_with_definition<Bfloat16>(GetParam(), count, with(ReduceOp::kAdasum));
  }
}

TEST_P(GpuAdasum, IsScaledBeforeAndAfter) {
  compare_with_definition<Float32>(GetParam(), 1000, with(ReduceOp::kAdasum, 0.5, 0.25));
  compare_with_definition<Float16>(GetParam(), 1000, with(ReduceOp::kAdasum, 0.5, 1));
}

// Equal vectors are averaged, orthogonal ones added, and zeros share nothing with anybody. More
// elements than one round of the largest grid has, and more than the host's scratch memory.
TEST(GpuAdasumOfTwo, ManyElements) {
  constexpr size_t kCount = 2 * 5'000'001;
  std::vector<float> equal(kCount), sums(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    equal[i] = static_cast<float>(i % 5);
    sums[i] = 1;
  }
  on_gpus(2, [&](Engine& engine, Framework& gpu) {
    std::vector<float> orthogonal(kCount);
    for (size_t i = 0; i < kCount; ++i) {
      orthogonal[i] = i % 2 == static_cast<size_t>(engine.rank()) ? 1.0F : 0.0F;
    }
    const TensorView first = gpu.tensor(equal);
    const TensorView second = gpu.tensor(orthogonal);
    const TensorView third = gpu.tensor(engine.rank() == 0 ? equal : std::vector<float>(kCount));
    const AllreduceOptions options = with(ReduceOp::kAdasum);
    const std::vector<WorkPtr> works{engine.allreduce_async("equal", first, first, options),
                                     engine.allreduce_async("orthogonal", second, second, options),
                                     engine.allreduce_async("zeros", third, third, options)};
    ASSERT_TRUE(wait_all(works).ok()) << wait_all(works).to_string();
    EXPECT_TRUE(gpu.read<float>(first) == equal);
    EXPECT_TRUE(gpu.read<float>(second) == sums);
    EXPECT_TRUE(gpu.read<float>(third) == equal);
  });
}

// Between other operations, in any order, and in a process set.
TEST(GpuAdasumOfFour, StandsBetweenOtherOperations) {
  const std::vector<std::vector<double>> vectors = adasum_vectors(4, 500);
  const std::vector<double> all = adasum_of(vectors);
  const std::vector<double> two = adasum_of({vectors[1], vectors[3]});
  on_gpus(4, [&](Engine& engine, Framework& gpu) {
    const auto set = engine.add_process_set({1, 3});
    ASSERT_TRUE(set.ok()) << set.status().to_string();
    const std::vector<double>& mine = vectors[static_cast<size_t>(engine.rank())];
    for (int round = 0; round < 5; ++round) {
      const TensorView whole = gpu.tensor(mine, DataType::kFloat64);
      const TensorView part = gpu.tensor(mine, DataType::kFloat64);
      const TensorView sum = gpu.tensor(numbers(engine.rank()));
      std::vector<WorkPtr> works{
          engine.allreduce_async("sum", sum, sum, with(ReduceOp::kSum)),
          engine.allreduce_async("all", whole, whole, with(ReduceOp::kAdasum))};
      if (engine.rank() % 2 == 1) {
        AllreduceOptions options = with(ReduceOp::kAdasum);
        options.process_set = *set;
        works.push_back(engine.allreduce_async("two", part, part, options));
      }
      ASSERT_TRUE(wait_all(works).ok()) << wait_all(works).to_string();
      EXPECT_EQ(gpu.read<float>(sum), sums(4));
      EXPECT_THAT(gpu.read<double>(whole), testing::Pointwise(testing::DoubleNear(1e-12), all));
      const std::vector<double>& expected = engine.rank() % 2 == 1 ? two : mine;
      EXPECT_THAT(gpu.read<double>(part), testing::Pointwise(testing::DoubleNear(1e-12), expected));
    }
  });
}

TEST(GpuAdasumOfThree, IsRefusedWithTheRemedy) {
  on_gpus(3, [](Engine& engine, Framework& gpu) {
    const TensorView tensor = gpu.tensor(numbers(engine.rank()));
    EXPECT_THAT(
        engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kAdasum))->wait().message(),
        HasSubstr("adasum needs a power of two ranks, not 3"));
    gpu.read<float>(tensor);  // its copy is complete before its memory goes
  });
}

}  // namespace
}  // namespace khorus::test
