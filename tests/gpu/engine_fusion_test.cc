// Tensors of a GPU that travel together, as one operation of the backend's.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/gpu/engines.h"

namespace khorus::test {
namespace {

class GpuFusion : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, GpuFusion, testing::Values(1, 2, 3));

// Three tensors of numbers(): where they lie side by side on rank 0, elsewhere apart.
std::vector<TensorView> three_tensors(Engine& engine, Framework& gpu, size_t count) {
  const std::vector<float> values = numbers(engine.rank(), 3 * count);
  std::vector<TensorView> parts(3);
  if (engine.rank() == 0) parts.assign(3, gpu.tensor(values));
  for (size_t i = 0; i < 3; ++i) {
    TensorView& part = parts[i];
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(i * count);
    const auto last = first + static_cast<std::ptrdiff_t>(count);
    if (engine.rank() != 0) part = gpu.tensor(std::vector<float>(first, last));
    if (engine.rank() == 0) part.data = static_cast<float*>(part.data) + i * count;
    part.shape = {static_cast<int64_t>(count)};
    if (i == 1) part.ready_event = gpu.record();
  }
  return parts;
}
std::vector<float> read_all(Framework& gpu, const std::vector<TensorView>& parts) {
  std::vector<float> all;
  for (const TensorView& part : parts) {
    const std::vector<float> values = gpu.read<float>(part);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}
std::vector<NamedTensor> named(const std::string& name, const std::vector<TensorView>& parts) {
  std::vector<NamedTensor> members;
  for (const TensorView& part : parts) {
    members.push_back({name + std::to_string(members.size()), part, part});
  }
  return members;
}

// One operation for all. The sizes grow, so that the backend's memory for those that lie apart
// grows under operations that are under way.
TEST_P(GpuFusion, RanksMayDifferInWhatLiesSideBySide) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    const std::vector<size_t> counts = {10, 1000, 750000, 1001, 1400000};
    std::vector<std::vector<TensorView>> rounds;
    std::vector<WorkPtr> works;
    for (const size_t count : counts) {
      rounds.push_back(three_tensors(engine, gpu, count));
      const auto grouped = engine.grouped_allreduce_async(
          "", named(std::to_string(count) + ".", rounds.back()), with(ReduceOp::kSum));
      works.insert(works.end(), grouped.begin(), grouped.end());
    }
    for (const WorkPtr& work : works) ASSERT_TRUE(wait_on_stream(*work, gpu.stream()).ok());
    for (size_t i = 0; i < counts.size(); ++i) {
      EXPECT_EQ(read_all(gpu, rounds[i]), sums(engine.size(), 3 * counts[i]));
    }
    ASSERT_TRUE(wait_all(works).ok());
    EXPECT_LE(engine.stats().responses_executed, counts.size());
  });
}

TEST_P(GpuFusion, BroadcastsTravelTogether) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    for (int root = 0; root < engine.size(); ++root) {
      std::vector<NamedTensor> members = named("x", three_tensors(engine, gpu, 500));
      // The root keeps its input, where the output is another memory.
      std::vector<TensorView> outputs;
      if (root % 2 == 0) outputs = three_tensors(engine, gpu, 500);
      for (size_t i = 0; i < outputs.size(); ++i) members[i].output = outputs[i];
      ASSERT_TRUE(wait_all(engine.grouped_broadcast_async("", members, root)).ok());
      if (outputs.empty()) {
        for (const NamedTensor& member : members) outputs.push_back(member.output);
      }
      EXPECT_EQ(read_all(gpu, outputs), numbers(root, 1500));
    }
    EXPECT_EQ(engine.stats().responses_executed, static_cast<uint64_t>(engine.size()));
  });
}

}  // namespace
}  // namespace khorus::test
