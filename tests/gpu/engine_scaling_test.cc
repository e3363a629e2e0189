// Reductions of device tensors that are scaled: what the CPU's engine gives for the same values,
// bit for bit, where the order of the ranks does not matter; with and without kernels.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/base/half.h"
#include "tests/gpu/engines.h"

namespace khorus::test {
namespace {

template <class T>
constexpr DataType kDataTypeOf = DataType::kBool;
template <>
constexpr DataType kDataTypeOf<uint8_t> = DataType::kUint8;
template <>
constexpr DataType kDataTypeOf<int8_t> = DataType::kInt8;
template <>
constexpr DataType kDataTypeOf<int16_t> = DataType::kInt16;
template <>
constexpr DataType kDataTypeOf<int32_t> = DataType::kInt32;
template <>
constexpr DataType kDataTypeOf<int64_t> = DataType::kInt64;
template <>
constexpr DataType kDataTypeOf<float> = DataType::kFloat32;
template <>
constexpr DataType kDataTypeOf<double> = DataType::kFloat64;

// Of all magnitudes that a sum of some ranks can have; of both signs, where there are two.
template <class T>
std::vector<T> some_values(int rank, size_t count) {
  std::vector<T> values(count);
  for (size_t i = 0; i < count; ++i) {
    const int number = static_cast<int>(i * 37 + static_cast<size_t>(rank) * 11) % 61;
    values[i] = static_cast<T>(std::is_signed_v<T> ? number - 30 : number);
  }
  return values;
}

// Tensors that travel together, one alone, and the rows that a rank gets of one, on the device and
// on the CPU.
template <class T>
void compare_with_cpu(Engine& engine, Framework& gpu, const AllreduceOptions& options) {
  const DataType dtype = kDataTypeOf<T>;
  const size_t counts[] = {1, 1000, 3, 20000};
  std::vector<std::vector<T>> host;
  std::vector<NamedTensor> on_gpu, on_cpu;
  for (const size_t count : counts) {
    host.push_back(some_values<T>(engine.rank(), count));
    const TensorView tensor = gpu.tensor(host.back(), dtype);
    on_gpu.push_back({"gpu" + std::to_string(count), tensor, tensor});
  }
  for (std::vector<T>& values : host) {
    const TensorView tensor = view_of(values, dtype);
    on_cpu.push_back({"cpu" + std::to_string(values.size()), tensor, tensor});
  }
  std::vector<T> alone = some_values<T>(engine.rank(), 5000);
  const TensorView input = gpu.tensor(alone, dtype);
  const TensorView output = gpu.tensor(std::vector<T>(5000), dtype);
  const TensorView rows = gpu.tensor(alone, dtype);
  std::vector<T> rows_on_cpu = alone;
  const TensorView alone_on_cpu = view_of(alone, dtype);

  std::vector<WorkPtr> works = engine.grouped_allreduce_async("", on_gpu, options);
  for (const WorkPtr& work : engine.grouped_allreduce_async("", on_cpu, options)) {
    works.push_back(work);
  }
  works.push_back(engine.allreduce_async("alone", input, output, options));
  works.push_back(engine.allreduce_async("alone on cpu", alone_on_cpu, alone_on_cpu, options));
  const WorkPtr part = engine.reducescatter_async("rows", rows, options);
  const WorkPtr part_on_cpu =
      engine.reducescatter_async("rows on cpu", view_of(rows_on_cpu, dtype), options);
  works.insert(works.end(), {part, part_on_cpu});
  for (const WorkPtr& work : works) ASSERT_TRUE(work->wait().ok()) << work->wait().to_string();

  for (size_t i = 0; i < host.size(); ++i) EXPECT_EQ(gpu.read<T>(on_gpu[i].output), host[i]);
  EXPECT_EQ(gpu.read<T>(output), alone);
  EXPECT_EQ(gpu.read<T>(input), some_values<T>(engine.rank(), 5000)) << "the input is not written";
  EXPECT_EQ(gpu.read<T>(rows), some_values<T>(engine.rank(), 5000)) << "the input is not written";
  const std::vector<T> kept = gpu.read<T>(part->result());
  const T* const expected = static_cast<const T*>(part_on_cpu->result().data);
  EXPECT_EQ(kept, std::vector<T>(expected, expected + kept.size()));
}

template <class... Types>
void compare_types(Engine& engine, Framework& gpu, const AllreduceOptions& options) {
  (compare_with_cpu<Types>(engine, gpu, options), ...);
}

class GpuScaling : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, GpuScaling, testing::Values(1, 2, 3));

TEST_P(GpuScaling, IntegersAreAveragedAsOnTheCpu) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    for (const AllreduceOptions& options :
         {with(ReduceOp::kAverage), with(ReduceOp::kAverage, 1, 2), with(ReduceOp::kSum, 3, 0.4)}) {
      compare_types<uint8_t, int8_t, int16_t, int32_t, int64_t>(engine, gpu, options);
    }
  });
}

TEST_P(GpuScaling, MinimaMaximaAndProductsAreScaled) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    for (const ReduceOp op : {ReduceOp::kMin, ReduceOp::kMax}) {
      compare_types<int8_t, int32_t, float, double>(engine, gpu, with(op, 0.7, -3));
      compare_types<int16_t, float>(engine, gpu, with(op, 1, 0.25));
    }
    // Powers of two do not round.
    compare_types<int32_t, int64_t, float, double>(engine, gpu, with(ReduceOp::kProduct, 2, 0.5));
  });
}

// Whole numbers, of which no order of sums rounds any.
TEST_P(GpuScaling, SumsOfFloatsAreScaledWhereverTheyLie) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    compare_types<float, double>(engine, gpu, with(ReduceOp::kSum, 0.5, 4));
    compare_types<float, double>(engine, gpu, with(ReduceOp::kSum, 2, 1));
  });
}

// 60000, whose sum of two ranks is more than a float16 can be; alone and with others.
TEST_P(GpuScaling, AveragesOfHalvesDoNotOverflow) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    const uint16_t value = base::float_to_float16(60000);
    std::vector<NamedTensor> members;
    for (const size_t count : {7, 1000}) {
      const TensorView tensor = gpu.tensor(std::vector<uint16_t>(count, value), DataType::kFloat16);
      members.push_back({std::to_string(count), tensor, tensor});
    }
    const TensorView alone = gpu.tensor(std::vector<uint16_t>(9, value), DataType::kFloat16);
    auto works = engine.grouped_allreduce_async("", members, with(ReduceOp::kAverage));
    works.push_back(engine.allreduce_async("alone", alone, alone, with(ReduceOp::kAverage)));
    ASSERT_TRUE(wait_all(works).ok());
    EXPECT_EQ(gpu.read<uint16_t>(members[0].output), std::vector<uint16_t>(7, value));
    EXPECT_EQ(gpu.read<uint16_t>(members[1].output), std::vector<uint16_t>(1000, value));
    EXPECT_EQ(gpu.read<uint16_t>(alone), std::vector<uint16_t>(9, value));
  });
}

TEST_P(GpuScaling, BoolsAreScaledAsZeroAndOne) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    const std::vector<uint8_t> mine = {0, 1, static_cast<uint8_t>(engine.rank() == 0)};
    for (const double scale : {0.5, 2.0}) {
      const TensorView tensor = gpu.tensor(mine, DataType::kBool);
      const AllreduceOptions options = with(ReduceOp::kSum, 1, scale);
      ASSERT_TRUE(engine.allreduce_async("any", tensor, tensor, options)->wait().ok());
      const uint8_t one = scale < 1 ? 0 : 1;
      EXPECT_EQ(gpu.read<uint8_t>(tensor), (std::vector<uint8_t>{0, one, one}));
    }
  });
}

}  // namespace
}  // namespace khorus::test
