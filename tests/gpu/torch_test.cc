// Tensors of a GPU through the libtorch front end: on a device of the tests' own (torch_device.h),
// which counts as CUDA here. Ranks are threads, each with a device. The values are checked here,
// the order of streams and the life of memory by the double.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/gpu/torch_ranks.h"
#include "torch_plugin/device.h"

namespace khorus::torch::testing {
namespace {

using ::testing::HasSubstr;

// Before the first backward(), also on the CPU, which counts the devices there are.
class WithTheDevice : public ::testing::Environment {
  void SetUp() override {
    gpu_double::register_torch_device();
    count_as_gpu(at::kPrivateUse1);
  }
};
const auto* const kEnvironment = ::testing::AddGlobalTestEnvironment(new WithTheDevice);

INSTANTIATE_TEST_SUITE_P(Ranks, TorchGpu, ::testing::Values(1, 2, 3));

TEST_P(TorchGpu, ResultsAreOnTheDevice) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const int size = engine.size(), rank = engine.rank();
    for (int round = 0; round < 3; ++round) {
      const Tensor mine = rows(rank, 5).to(gpu);
      expect_equal(allreduce(mine, reducing(engine, "sum")), sum_of_rows(size, 5), gpu);
      expect_equal(allreduce(mine, reducing(engine, "mean", ReduceOp::kAverage)),
                   sum_of_rows(size, 5) / size, gpu);
      expect_equal(broadcast(mine, size - 1, on_engine(engine, "given")), rows(size - 1, 5), gpu);

      std::vector<Tensor> all;
      for (int r = 0; r < size; ++r) all.push_back(rows(r, r + 1));
      expect_equal(allgather(rows(rank, rank + 1).to(gpu), on_engine(engine, "gather")),
                   ::torch::cat(all), gpu);

      const auto swapped = alltoall(rows(rank, size).to(gpu), {}, on_engine(engine, "swap"));
      std::vector<Tensor> column;
      for (int r = 0; r < size; ++r) column.push_back(rows(r, size).narrow(0, rank, 1));
      expect_equal(swapped.output, ::torch::cat(column), gpu);
      EXPECT_EQ(swapped.received_splits, std::vector<int64_t>(static_cast<size_t>(size), 1));

      expect_equal(reducescatter(rows(rank, 2 * size).to(gpu), reducing(engine, "part")),
                   sum_of_rows(size, 2 * size).narrow(0, 2 * rank, 2), gpu);
    }
  });
}

TEST_P(TorchGpu, InPlaceGroupedCompressedAndApart) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const int size = engine.size(), rank = engine.rank();
    const Tensor transposed = rows(rank, 3).to(gpu).t();  // not contiguous
    allreduce_(transposed, reducing(engine, "transposed"));
    expect_equal(transposed, sum_of_rows(size, 3).t(), gpu);

    ReduceOptions small = reducing(engine, "small");
    small.compression = Compression::bf16;
    expect_equal(allreduce(::torch::ones({9}, gpu), small), ::torch::ones({9}) * size, gpu);

    // One group on both kinds of device.
    const std::vector<Tensor> both = {rows(rank, 2).to(gpu), rows(rank, 2)};
    grouped_allreduce_(both, reducing(engine, "both"));
    expect_equal(both[0], sum_of_rows(size, 2), gpu);
    expect_equal(both[1], sum_of_rows(size, 2), at::kCPU);
  });
}

TEST_P(TorchGpu, GradientsOfCollectivesAreThereToo) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const Tensor x = rows(engine.rank(), 2).to(gpu).requires_grad_(true);
    allgather(x, on_engine(engine, "gather")).sum().backward();
    expect_equal(x.grad(), ::torch::ones({2, 4}) * engine.size(), gpu);
  });
}

TEST_P(TorchGpu, WaitIsForTheStream) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const Tensor mine = rows(engine.rank(), 5).to(gpu);
    const Tensor other = mine.clone();
    allreduce_(other, reducing(engine, "first"));  // makes the communicator
    HeldUp held(gpu);
    Handle handle = allreduce_async_(mine, reducing(engine, "x"));
    Handle gathered = allgather_async(mine, on_engine(engine, "y"));
    const Tensor all = gathered.wait();
    handle.wait();
    EXPECT_FALSE(handle.poll());
    EXPECT_EQ(all.size(0), 5 * engine.size());
    held.release();
    expect_equal(mine, sum_of_rows(engine.size(), 5), gpu);
    EXPECT_EQ(all.device(), gpu);
  });
}

// Memory that is freed at once goes to the next tensor of this stream: early, if nobody kept it.
TEST_P(TorchGpu, MemoryIsKeptUntilTheDeviceIsDoneWithIt) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    for (int round = 0; round < 20; ++round) {
      const std::string name = "x" + std::to_string(round);
      allreduce_async_(rows(engine.rank(), 50).to(gpu), reducing(engine, name.c_str()));
      ::torch::zeros({50, 4}, gpu).add_(1);
      // What the engine has allocated is still being read when it is dropped.
      const Tensor read =
          allgather(rows(engine.rank(), 50).to(gpu), on_engine(engine, "gather")) * 2;
      EXPECT_EQ(read.size(0), 50 * engine.size());
    }
    barrier(on_engine(engine, "end"));
  });
}

// ---- errors

TEST(TorchGpuErrors, WhatAGpuDoesNotReduceIsRefused) {
  on_gpus(2, [](Engine& engine, at::Device gpu) {
    const Tensor mine = rows(engine.rank(), 1).to(gpu);
    const auto message = [&](const Tensor& tensor, ReduceOp op) -> std::string {
      try {
        allreduce(tensor, reducing(engine, "x", op));
      } catch (const Error& error) {
        return error.what();
      }
      return "";
    };
    EXPECT_THAT(message(::torch::empty({2}, ::torch::kMeta), ReduceOp::kSum),
                HasSubstr("is on meta; tensors of the CPU and of CUDA are carried"));
    EXPECT_EQ(message(mine, ReduceOp::kSum), "");
  });
}

}  // namespace
}  // namespace khorus::torch::testing
