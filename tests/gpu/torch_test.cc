// Tensors of a GPU through the libtorch front end: on a device of the tests' own (torch_device.h),
// which counts as CUDA here. Ranks are threads, each with a device. The values are checked here,
// the order of streams and the life of memory by the double.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/torch_device.h"
#include "tests/torch/regression.h"
#include "tests/torch/temporary_folder.h"
#include "tests/torch/world.h"
#include "torch_plugin/device.h"

namespace khorus::torch::testing {
namespace {

using gpu_double::host_waits;
using ::testing::HasSubstr;

// Before the first backward(), also on the CPU, which counts the devices there are.
class WithTheDevice : public ::testing::Environment {
  void SetUp() override {
    gpu_double::register_torch_device();
    count_as_gpu(at::kPrivateUse1);
  }
};
const auto* const kEnvironment = ::testing::AddGlobalTestEnvironment(new WithTheDevice);

// The body of a rank, with its device.
void on_gpus(int size, const std::function<void(Engine&, at::Device)>& body) {
  WorldOptions options;
  options.size = size;
  run_world(options, [&](Engine& engine) {
    body(engine, {at::kPrivateUse1, static_cast<at::DeviceIndex>(engine.rank())});
  });
}

class TorchGpu : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, TorchGpu, ::testing::Values(1, 2, 3));

// [rows, 4], different on every rank.
Tensor rows(int rank, int64_t count) {
  return ::torch::arange(4 * count, ::torch::kFloat32).view({count, 4}) + 100.0 * rank;
}
Tensor sum_of_rows(int size, int64_t count) {
  Tensor sum = ::torch::zeros({count, 4});
  for (int rank = 0; rank < size; ++rank) sum += rows(rank, count);
  return sum;
}
void expect_equal(const Tensor& there, const Tensor& expected, const at::Device& device) {
  EXPECT_EQ(there.device(), device);
  EXPECT_TRUE(there.cpu().allclose(expected)) << there.cpu() << "\nis not\n" << expected;
}

CollectiveOptions on_engine(Engine& engine, const char* name) {
  CollectiveOptions options;
  options.name = name;
  options.engine = &engine;
  return options;
}
ReduceOptions reducing(Engine& engine, const char* name, ReduceOp op = ReduceOp::kSum) {
  ReduceOptions options;
  options.name = name;
  options.op = op;
  options.engine = &engine;
  return options;
}

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

// Holds up the stream: if the host comes by what is waited for behind that, it has not waited.
class HeldUp {
 public:
  explicit HeldUp(const at::Device& device) {
    gpu_double::call_in_stream(
        device.index(), [](void* data) { static_cast<std::atomic<bool>*>(data)->wait(false); },
        &go_);
  }
  HeldUp(const HeldUp&) = delete;
  HeldUp& operator=(const HeldUp&) = delete;
  // Lives until the stream has been waited for.
  void release() {
    go_ = true;
    go_.notify_all();
  }

 private:
  std::atomic<bool> go_{false};
};

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

// ---- training

// Net with its layers where they are wanted: torch moves no module to a device of this kind.
struct NetOnDevices : ::torch::nn::Module {
  NetOnDevices(at::Device first, at::Device last) {
    const Net net(::torch::kFloat64);
    for (const auto& item : net->named_parameters()) {
      std::string name = item.key();
      std::replace(name.begin(), name.end(), '.', '_');
      const Tensor there = item.value().detach().to(name.starts_with("third") ? last : first);
      parameters_there.push_back(register_parameter(name, there.clone()));
    }
  }
  Tensor layer(size_t number, const Tensor& x) const {
    const Tensor& weight = parameters_there[2 * number];
    return ::torch::linear(x.to(weight.device()), weight, parameters_there[2 * number + 1]);
  }
  // On examples first to first + 3.
  Tensor loss(int64_t step, int64_t first) const {
    const auto [x, y] = examples(step, first, 4, ::torch::kFloat64);
    const Tensor out = layer(2, ::torch::tanh(layer(1, ::torch::tanh(layer(0, x)))));
    const Tensor difference = out - y.to(out.device());
    return (difference * difference).mean();
  }
  std::vector<Tensor> read() const {
    std::vector<Tensor> values;
    for (const Tensor& parameter : parameters_there) values.push_back(parameter.detach().cpu());
    return values;
  }

  std::vector<Tensor> parameters_there;
};

// The parameters after training, and how often the host waited in a step after the third.
struct Trained {
  std::vector<Tensor> parameters;
  uint64_t waits = 0;
};
Trained train(Engine& engine, at::Device gpu, bool mixed,
              const std::function<void(DistributedOptimizerOptions&)>& change = {}) {
  DistributedOptimizerOptions options = on(engine);
  if (change) change(options);
  NetOnDevices net(gpu, mixed ? at::Device(at::kCPU) : gpu);
  broadcast_parameters(net, 0, on_engine(engine, "start"));
  DistributedOptimizer optimizer(make_sgd(net.parameters()), net.named_parameters(), options);
  uint64_t before = 0;
  for (int64_t step = 0; step < 8; ++step) {
    barrier(on_engine(engine, "step"));
    if (step == 3) before = host_waits();
    barrier(on_engine(engine, "begin"));  // the count is of all ranks
    optimizer.zero_grad(/*set_to_none=*/step % 2 == 0);
    net.loss(step, 4 * engine.rank()).backward();
    optimizer.step();
  }
  barrier(on_engine(engine, "trained"));
  const uint64_t waits = host_waits() - before;
  barrier(on_engine(engine, "counted"));
  return {net.read(), waits};
}

std::vector<Tensor> trained_alone(int size) {
  Equivalence config;
  config.steps = 8;
  return train_alone(config, 4 * size);
}

TEST_P(TorchGpu, TrainsAsTheCpuDoesWithoutWaitingForTheDevice) {
  const std::vector<Tensor> expected = trained_alone(GetParam());
  on_gpus(GetParam(), [&](Engine& engine, at::Device gpu) {
    const Trained trained = train(engine, gpu, /*mixed=*/false);
    EXPECT_LT(largest_difference(trained.parameters, expected), 1e-9);
    EXPECT_EQ(trained.waits, 0U);
  });
}

TEST_P(TorchGpu, TrainsWithParametersOnBoth) {
  const std::vector<Tensor> expected = trained_alone(GetParam());
  on_gpus(GetParam(), [&](Engine& engine, at::Device gpu) {
    const Trained trained = train(engine, gpu, /*mixed=*/true);
    EXPECT_LT(largest_difference(trained.parameters, expected), 1e-9);
  });
}

TEST_P(TorchGpu, TrainsInGroupsCompressedAndWithoutAnArena) {
  const std::vector<Tensor> expected = trained_alone(GetParam());
  on_gpus(GetParam(), [&](Engine& engine, at::Device gpu) {
    const auto difference = [&](const std::function<void(DistributedOptimizerOptions&)>& change) {
      const Trained trained = train(engine, gpu, /*mixed=*/false, change);
      EXPECT_EQ(trained.waits, 0U);
      return largest_difference(trained.parameters, expected);
    };
    EXPECT_LT(difference([](auto& options) { options.gradient_arena = false; }), 1e-9);
    EXPECT_LT(difference([](auto& options) { options.num_groups = 2; }), 1e-9);
    EXPECT_LT(difference([](auto& options) { options.compression = Compression::bf16; }), 1e-1);
  });
}

// From the second step on gradients lie in one memory on the device; and while that is held up
// before their reduction, synchronize() returns.
TEST_P(TorchGpu, SynchronizeIsForTheStreamAndBucketsAreOnTheDevice) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const Tensor a = rows(engine.rank(), 2).to(gpu).requires_grad_(true);
    const Tensor b = rows(engine.rank(), 3).to(gpu).requires_grad_(true);
    broadcast_(a.detach(), 0, on_engine(engine, "start"));
    DistributedOptimizer optimizer(plain_sgd({a, b}), {{"a", a}, {"b", b}}, on(engine));
    const auto backward = [&] { ((a * 3).sum() + (b * (engine.rank() + 1)).sum()).backward(); };
    for (int step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      backward();
      optimizer.step();
    }
    optimizer.zero_grad();
    backward();
    optimizer.synchronize();
    if (engine.size() > 1) {  // they lie in one memory, and torch's own begins on pages
      EXPECT_LT(std::abs(a.grad().data_ptr<float>() - b.grad().data_ptr<float>()), 64);
    }

    // The same gradients again; they travel when they are missed.
    optimizer.step();
    optimizer.zero_grad();
    a.mutable_grad() = ::torch::full({2, 4}, 3.0).to(gpu);
    b.mutable_grad() = ::torch::full({3, 4}, engine.rank() + 1.0).to(gpu);
    HeldUp held(gpu);
    optimizer.synchronize();
    held.release();
    expect_equal(a.grad(), ::torch::full({2, 4}, 3.0), gpu);
    expect_equal(b.grad(), ::torch::full({3, 4}, (engine.size() + 1) / 2.0), gpu);
    optimizer.step();
  });
}

TEST_P(TorchGpu, BroadcastsOptimizerStateToEachDevice) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const Tensor p = rows(engine.rank(), 2).to(gpu).requires_grad_(true);
    auto adam = make_adamw({p});
    if (engine.rank() == 0) {
      p.mutable_grad() = ::torch::ones({2, 4}, gpu);
      adam->step();
    }
    broadcast_optimizer_state(*adam, 0, on_engine(engine, "adam"));
    const auto& state = static_cast<const ::torch::optim::AdamWParamState&>(
        *adam->state().at(p.unsafeGetTensorImpl()));
    EXPECT_EQ(state.step(), 1);
    expect_equal(state.exp_avg(), ::torch::full({2, 4}, 0.1), gpu);
  });
}

// What was saved on a GPU goes on on the CPU, and the other way round.
TEST_P(TorchGpu, CheckpointsAreReadOnEitherDevice) {
  const TemporaryFolder folder;
  const std::string path = folder / "checkpoint.safetensors";
  for (const bool saved_on_gpu : {true, false}) {
    on_gpus(GetParam(), [&](Engine& engine, at::Device gpu) {
      const auto step_on = [&](at::Device device, bool load) {
        NetOnDevices net(device, device);
        DistributedOptimizer optimizer(make_adamw(net.parameters()), net.named_parameters(),
                                       on(engine));
        TrainingState state{net, optimizer, 1, {}};
        CheckpointOptions options;
        options.engine = &engine;
        if (load) load_checkpoint(path, state, options);
        optimizer.zero_grad();
        net.loss(load ? 1 : 0, 0).backward();
        optimizer.step();
        if (!load) save_checkpoint(path, state, options);
        return net.read();
      };
      step_on(saved_on_gpu ? gpu : at::Device(at::kCPU), /*load=*/false);
      const auto on_the_other = step_on(saved_on_gpu ? at::Device(at::kCPU) : gpu, /*load=*/true);
      const auto on_the_same = step_on(saved_on_gpu ? gpu : at::Device(at::kCPU), /*load=*/true);
      EXPECT_LT(largest_difference(on_the_same, on_the_other), 1e-9);
    });
  }
}

TEST_P(TorchGpu, SyncBatchNormIsThatOfTheCpu) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const auto run = [&](at::Device device) {
      SyncBatchNormOptions options;
      options.num_features = 4;
      options.engine = &engine;
      options.affine = options.track_running_stats = false;
      SyncBatchNorm norm(options);
      const Tensor x = (rows(engine.rank(), 5) * 0.01).to(device).requires_grad_(true);
      const Tensor y = norm->forward(x);
      (y * rows(1, 5).to(device)).sum().backward();
      return std::pair{y.detach().cpu(), x.grad().cpu()};
    };
    const auto there = run(gpu), here = run(at::kCPU);
    EXPECT_TRUE(there.first.allclose(here.first));
    EXPECT_TRUE(there.second.allclose(here.second, 1e-4, 1e-4));
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
    EXPECT_THAT(message(mine, ReduceOp::kAdasum), HasSubstr("adasum is for tensors of the CPU"));
    EXPECT_THAT(message(::torch::empty({2}, ::torch::kMeta), ReduceOp::kSum),
                HasSubstr("is on meta; tensors of the CPU and of CUDA are carried"));
    EXPECT_EQ(message(mine, ReduceOp::kSum), "");
  });
}

}  // namespace
}  // namespace khorus::torch::testing
