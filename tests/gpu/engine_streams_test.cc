// What front ends need of an engine on a GPU beyond its operations: results before they are
// complete, waits that come back, memory.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <set>
#include <vector>

#include "khorus/device.h"
#include "tests/gpu/engines.h"

namespace khorus::test {
namespace {

class GpuStreams : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, GpuStreams, testing::Values(1, 2, 3));

// What an operation has allocated is known as soon as it is there.
TEST_P(GpuStreams, AStreamCanGoOnWithTheResult) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    std::atomic<bool> go{false};
    gpu.call([](void* data) { static_cast<std::atomic<bool>*>(data)->wait(false); }, &go);
    const TensorView mine = gpu.tensor(numbers(engine.rank(), 10));
    const WorkPtr work = engine.allgather_async("x", mine);
    ASSERT_TRUE(wait_on_stream(*work, gpu.stream()).ok());
    EXPECT_FALSE(work->poll());
    const TensorView all = work->result();
    EXPECT_EQ(all.shape, Shape({10 * engine.size()}));
    EXPECT_EQ(work->first_extents(), std::vector<int64_t>(static_cast<size_t>(engine.size()), 10));
    go = true;
    go.notify_all();
    EXPECT_EQ(gpu.read<float>(all)[0], 0.0F);
    EXPECT_TRUE(work->wait().ok());
  });
}

TEST(GpuStreamsOfTwo, AWaitThatHasPatienceComesBack) {
  on_gpus(2, [](Engine& engine, Framework& gpu) {
    const TensorView mine = gpu.tensor(numbers(engine.rank()));
    const auto submit = [&] {
      return engine.allreduce_async("x", mine, mine, with(ReduceOp::kSum));
    };
    WorkPtr work = engine.rank() == 0 ? submit() : nullptr;
    Status status(StatusCode::kInternal, "unchanged");
    if (work != nullptr) {  // the other rank does not come before the barrier
      using std::chrono::milliseconds;
      EXPECT_FALSE(wait_on_stream_for(*work, gpu.stream(), milliseconds(5), &status));
      EXPECT_EQ(status.message(), "unchanged");
    }
    ASSERT_TRUE(engine.barrier_async()->wait().ok());
    if (work == nullptr) work = submit();
    while (!wait_on_stream_for(*work, gpu.stream(), std::chrono::seconds(1), &status)) continue;
    EXPECT_TRUE(status.ok());
    EXPECT_EQ(gpu.read<float>(mine), sums(2));
  });
}

TEST_P(GpuStreams, LendsMemoryOnceTheRanksHaveMet) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    EXPECT_EQ(engine.allocate_on_device(4000), nullptr);
    TensorView tensor = gpu.tensor(numbers(engine.rank(), 1));
    ASSERT_TRUE(engine.broadcast_async("first", tensor, tensor, 0)->wait().ok());
    tensor.owner = engine.allocate_on_device(4000);
    ASSERT_NE(tensor.owner, nullptr);
    tensor.data = tensor.owner.get();
    tensor.shape = {1000};
    ASSERT_TRUE(engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kSum))->wait().ok());
    EXPECT_EQ(gpu.read<float>(tensor), std::vector<float>(1000));
  });
}

// The engine lets go of an operation before it is through with the next one; so no rank needs more
// than two blocks, whichever of those that share a GPU have them.
TEST_P(GpuStreams, MemoryOfResultsIsLentAgain) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    std::set<const void*> blocks;
    for (int round = 0; round < 20; ++round) {
      const WorkPtr work = engine.allgather_async("x", gpu.tensor(numbers(engine.rank(), 100)));
      ASSERT_TRUE(wait_on_stream(*work, gpu.stream()).ok());
      const TensorView all = work->result();
      blocks.insert(all.data);
      EXPECT_EQ(gpu.read<float>(all).back(), numbers(engine.size() - 1, 100).back());
      ASSERT_TRUE(work->wait().ok());
    }
    EXPECT_LE(blocks.size(), 2U * static_cast<size_t>(engine.size()));
  });
}

}  // namespace
}  // namespace khorus::test
