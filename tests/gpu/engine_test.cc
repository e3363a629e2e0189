// Device tensors through the engine: N engines as threads of one process, each with a GPU of its
// own (or all with one, where there is one). The values are checked here, the order of streams by
// the double: see framework.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "khorus/device.h"
#include "khorus/engine.h"
#include "tests/gpu/engines.h"

namespace khorus::test {
namespace {

using testing::HasSubstr;

class GpuEngine : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, GpuEngine, testing::Values(1, 2, 3));

TEST_P(GpuEngine, WaitIsForTheDevice) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    for (int round = 0; round < 3; ++round) {
      const TensorView input = gpu.tensor(numbers(engine.rank()));
      const TensorView output = gpu.tensor(std::vector<float>(1000));
      const WorkPtr work = engine.allreduce_async("x", input, output, with(ReduceOp::kSum));
      ASSERT_TRUE(work->wait().ok()) << work->wait().to_string();
      EXPECT_EQ(gpu.read<float>(work->result()), sums(engine.size()));
    }
  });
}

// The stream waits, not the host: the copy back is put into the stream at once.
TEST_P(GpuEngine, AStreamWaitsForTheOperation) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    TensorView tensor = gpu.tensor(numbers(engine.rank()));
    tensor.ready_event = gpu.record();
    const WorkPtr work = engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kSum));
    ASSERT_TRUE(wait_on_stream(*work, gpu.stream()).ok());
    EXPECT_EQ(gpu.read<float>(tensor), sums(engine.size()));
    EXPECT_TRUE(work->wait().ok());
    EXPECT_TRUE(wait_on_stream(*work, gpu.stream()).ok());  // long over
  });
}

// While a stream is held up, operations queue on the device; wait_on_stream() returns all the same.
TEST_P(GpuEngine, WaitOnStreamDoesNotWaitForTheDevice) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    std::atomic<bool> go{false};
    gpu.call([](void* data) { static_cast<std::atomic<bool>*>(data)->wait(false); }, &go);
    const TensorView tensor = gpu.tensor(numbers(engine.rank()));
    const WorkPtr work = engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kSum));
    EXPECT_TRUE(wait_on_stream(*work, gpu.stream()).ok());
    EXPECT_FALSE(work->poll());
    go = true;
    go.notify_all();
    EXPECT_EQ(gpu.read<float>(tensor), sums(engine.size()));
    EXPECT_TRUE(work->wait().ok());
  });
}

TEST_P(GpuEngine, TensorsOfBothKindsMix) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    std::vector<NamedTensor> on_gpu, on_cpu;
    std::vector<std::vector<float>> values(12, numbers(engine.rank(), 50));
    std::vector<WorkPtr> works;
    for (size_t i = 0; i < values.size(); ++i) {
      const std::string name = std::to_string(i);
      const TensorView tensor = gpu.tensor(numbers(engine.rank(), 50 + i));
      const TensorView host = view_of(values[i]);
      works.push_back(
          engine.allreduce_async("gpu" + name, tensor, tensor, with(ReduceOp::kAverage)));
      works.push_back(engine.allreduce_async("cpu" + name, host, host, with(ReduceOp::kSum)));
      on_gpu.push_back({"grouped" + name, tensor, tensor});
    }
    ASSERT_TRUE(wait_all(works).ok());
    const std::vector<WorkPtr> grouped =
        engine.grouped_allreduce_async("", on_gpu, with(ReduceOp::kMax));
    ASSERT_TRUE(wait_all(grouped).ok());
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(values[i], sums(engine.size(), 50));
      std::vector<float> average = sums(engine.size(), 50 + i);
      for (float& value : average) value /= static_cast<float>(engine.size());
      EXPECT_THAT(gpu.read<float>(on_gpu[i].input),
                  testing::Pointwise(testing::FloatNear(1e-3F), average));
    }
    EXPECT_GE(engine.stats().responses_executed, 3U);
  });
}

// A group of both cannot be fused, but runs all or nothing.
TEST_P(GpuEngine, OneGroupMayHaveBoth) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    std::vector<float> host = numbers(engine.rank());
    const TensorView tensor = gpu.tensor(numbers(engine.rank()));
    const std::vector<WorkPtr> works = engine.grouped_allreduce_async(
        "g", {{"a", tensor, tensor}, {"b", view_of(host), view_of(host)}}, with(ReduceOp::kSum));
    ASSERT_TRUE(wait_all(works).ok());
    EXPECT_EQ(gpu.read<float>(tensor), sums(engine.size()));
    EXPECT_EQ(host, sums(engine.size()));
  });
}

TEST_P(GpuEngine, ScalesSumsOfFloats) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    const TensorView tensor = gpu.tensor(numbers(engine.rank()));
    const WorkPtr work =
        engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kSum, 0.5, 4.0));
    ASSERT_TRUE(work->wait().ok());
    std::vector<float> expected = sums(engine.size());
    for (float& value : expected) value *= 2;
    EXPECT_EQ(gpu.read<float>(tensor), expected);
  });
}

TEST_P(GpuEngine, MovesRows) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    const int size = engine.size();
    const int rank = engine.rank();
    // Rank r has r rows of 2.
    TensorView mine =
        gpu.tensor(std::vector<float>(static_cast<size_t>(2 * rank), static_cast<float>(rank)));
    mine.shape = {rank, 2};
    const WorkPtr gathered = engine.allgather_async("gather", mine);
    // Row i goes to rank i.
    TensorView rows = gpu.tensor(numbers(rank, static_cast<size_t>(size)));
    const WorkPtr swapped = engine.alltoall_async("swap", rows);
    TensorView whole = gpu.tensor(numbers(rank, static_cast<size_t>(size) + 1));
    const WorkPtr part = engine.reducescatter_async("part", whole, with(ReduceOp::kAverage));
    const TensorView given = gpu.tensor(numbers(rank, 10));
    const WorkPtr broadcast = engine.broadcast_async("given", given, given, size - 1);
    ASSERT_TRUE(wait_all({gathered, swapped, part, broadcast}).ok());

    std::vector<float> all;
    for (int r = 0; r < size; ++r)
      all.insert(all.end(), static_cast<size_t>(2 * r), static_cast<float>(r));
    EXPECT_EQ(gathered->result().device, gpu.place());
    EXPECT_EQ(gpu.read<float>(gathered->result()), all);
    std::vector<float> column;
    for (int r = 0; r < size; ++r) {
      column.push_back(numbers(r, static_cast<size_t>(size))[static_cast<size_t>(rank)]);
    }
    EXPECT_EQ(gpu.read<float>(swapped->result()), column);
    const std::vector<float> kept = gpu.read<float>(part->result());
    ASSERT_EQ(kept.size(), rank == 0 ? 2U : 1U);
    const size_t first = rank == 0 ? 0U : static_cast<size_t>(rank) + 1;
    const std::vector<float> total = sums(size, static_cast<size_t>(size) + 1);
    EXPECT_NEAR(kept[0], total[first] / static_cast<float>(size), 1e-3);
    EXPECT_EQ(gpu.read<float>(given), numbers(size - 1, 10));
  });
}

TEST(GpuEngineSets, HaveCommunicatorsOfTheirOwn) {
  on_gpus(3, [](Engine& engine, Framework& gpu) {
    for (int round = 0; round < 2; ++round) {
      const auto pair = engine.add_process_set({0, 2});
      const auto other = engine.add_process_set({1, 2});
      ASSERT_TRUE(pair.ok() && other.ok());
      AllreduceOptions options = with(ReduceOp::kSum);
      std::vector<WorkPtr> works;
      std::vector<TensorView> tensors;
      for (const ProcessSetId set : {*pair, *other, kGlobalProcessSet}) {
        const auto ranks = engine.process_set_ranks(set);
        tensors.push_back(gpu.tensor(numbers(engine.rank())));
        if (std::find(ranks->begin(), ranks->end(), engine.rank()) == ranks->end()) continue;
        options.process_set = set;
        works.push_back(engine.allreduce_async("x", tensors.back(), tensors.back(), options));
      }
      ASSERT_TRUE(wait_all(works).ok());
      EXPECT_EQ(gpu.read<float>(tensors[2]), sums(3));
      const float expected[] = {202, 101, 202};  // 1 + 201, untouched, 1 + 201
      EXPECT_EQ(gpu.read<float>(tensors[0])[1], expected[engine.rank()]);
      // What is still on the device keeps the set until it is done.
      if (engine.rank() != 1) {
        options.process_set = *pair;
        works = {engine.allreduce_async("late", tensors[0], tensors[0], options)};
        ASSERT_TRUE(wait_on_stream(*works[0], gpu.stream()).ok());
      }
      EXPECT_TRUE(engine.remove_process_set(*pair).ok());
      EXPECT_TRUE(engine.remove_process_set(*other).ok());
      EXPECT_TRUE(wait_all(works).ok());
    }
  });
}

TEST(GpuEngineSets, AJoinedRankTakesPartWithZeros) {
  on_gpus(3, [](Engine& engine, Framework& gpu) {
    const WorkPtr joined = engine.rank() == 1 ? engine.join_async() : nullptr;
    if (joined == nullptr) {
      const TensorView tensor = gpu.tensor(numbers(engine.rank()));
      ASSERT_TRUE(engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kSum))->wait().ok());
      std::vector<float> expected = numbers(0);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += numbers(2)[i];
      EXPECT_EQ(gpu.read<float>(tensor), expected);
      ASSERT_TRUE(engine.allgather_async("y", tensor)->wait().ok());
    }
    EXPECT_TRUE((joined == nullptr ? engine.join_async() : joined)->wait().ok());
  });
}

// ---- errors ----

TEST(GpuEngineErrors, RanksThatDifferAreNamed) {
  on_gpus(3, [](Engine& engine, Framework& gpu) {
    std::vector<float> host = numbers(engine.rank());
    const TensorView tensor = engine.rank() == 1 ? view_of(host) : gpu.tensor(host);
    const Status status =
        engine.allreduce_async("grad", tensor, tensor, with(ReduceOp::kSum))->wait();
    EXPECT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_THAT(status.message(), HasSubstr("allreduce \"grad\" has device "));
    EXPECT_THAT(status.message(), HasSubstr("cuda on ranks 0,2"));
    EXPECT_THAT(status.message(), HasSubstr("cpu on rank 1"));
    // Nothing is broken.
    const TensorView again = gpu.tensor(host);
    EXPECT_TRUE(engine.allreduce_async("grad", again, again, with(ReduceOp::kSum))->wait().ok());
  });
}

TEST(GpuEngineErrors, WrongArgumentsAreRefused) {
  on_gpus(2, [](Engine& engine, Framework& gpu) {
    const TensorView tensor = gpu.tensor(numbers(0));
    const auto message = [&](const TensorView& in, const TensorView& out, AllreduceOptions how) {
      return engine.allreduce_async("x", in, out, how)->wait().message();
    };
    std::vector<float> host = numbers(0);
    EXPECT_THAT(message(tensor, view_of(host), with(ReduceOp::kSum)),
                HasSubstr("and output is on cpu; both must be on one device"));
    EXPECT_THAT(message(tensor, tensor, with(ReduceOp::kMax, 0)),
                HasSubstr("on a GPU nothing is scaled by 0"));
    EXPECT_EQ(message(tensor, tensor, with(ReduceOp::kSum)), "");
    TensorView elsewhere = tensor;
    elsewhere.device.index = tensor.device.index + 1;
    EXPECT_THAT(message(elsewhere, elsewhere, with(ReduceOp::kSum)),
                HasSubstr("so far, and a rank uses one device"));
  });
}

TEST(GpuEngineErrors, ADeviceThatIsNotThereIsNamed) {
  Ranks ranks(1, {"local", false});
  ranks.run([](Engine& engine) {
    std::vector<float> memory(4);
    TensorView view = view_of(memory);
    view.device = {DeviceKind::kCuda, 99};
    const Status status = engine.broadcast_async("x", view, view, 0)->wait();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.message(), HasSubstr("is to use GPU 99, and the driver shows it"));
  });
}

// An engine that ends in the middle frees everybody who waits.
TEST(GpuEngineErrors, ARankThatLeavesWithWorkOnTheDeviceEndsAllWaits) {
  Ranks ranks(2, {"local", false});
  ranks.run([](Engine& engine) {
    Framework gpu(engine.rank() % devices());
    TensorView tensor = gpu.tensor(numbers(engine.rank()));
    ASSERT_TRUE(engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kSum))->wait().ok());
    if (engine.rank() == 0) {
      const WorkPtr never = engine.allreduce_async("never", tensor, tensor, with(ReduceOp::kSum));
      EXPECT_EQ(wait_on_stream(*never, gpu.stream()).code(), StatusCode::kShutdown);
      EXPECT_EQ(never->wait().code(), StatusCode::kShutdown);
    } else {
      engine.shutdown();
    }
  });
}

TEST(GpuEngineLife, MemoryIsKeptUntilTheDeviceIsDoneWithIt) {
  on_gpus(2, [](Engine& engine, Framework& gpu) {
    std::atomic<bool> go{false};
    gpu.call([](void* data) { static_cast<std::atomic<bool>*>(data)->wait(false); }, &go);
    std::weak_ptr<void> memory;
    std::vector<WorkPtr> works;
    {
      const TensorView tensor = gpu.tensor(numbers(engine.rank()));
      memory = tensor.owner;
      TensorView output = tensor;
      output.owner = nullptr;
      works.push_back(engine.allreduce_async("x", tensor, output, with(ReduceOp::kSum)));
    }
    EXPECT_TRUE(wait_on_stream(*works[0], gpu.stream()).ok());
    EXPECT_FALSE(memory.expired());
    go = true;
    go.notify_all();
    EXPECT_TRUE(works[0]->wait().ok());
    works.clear();
    gpu.read<float>(gpu.tensor(numbers(0, 1)));  // the stream is empty
    // The completion thread lets go after it has woken this one; shutdown() waits for it.
    engine.shutdown();
    EXPECT_TRUE(memory.expired());
  });
}

TEST(GpuEngineLife, IsSeenInTheMetrics) {
  on_gpus(2, [](Engine& engine, Framework& gpu) {
    const TensorView tensor = gpu.tensor(numbers(engine.rank()));
    ASSERT_TRUE(engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kSum))->wait().ok());
    EXPECT_THAT(engine.metrics_text(), HasSubstr("khorus_execution_seconds_count"));
    EXPECT_EQ(engine.stats().responses_executed, 1U);
    EXPECT_EQ(engine.stats().bytes_reduced, 4000U);
  });
}

}  // namespace
}  // namespace khorus::test
