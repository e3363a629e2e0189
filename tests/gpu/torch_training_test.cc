// Training with tensors of a GPU through the libtorch front end; see torch_test.cc.
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/torch_net.h"
#include "tests/gpu/torch_ranks.h"

namespace khorus::torch::testing {
namespace {

using gpu_double::host_waits;

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

// Whatever stream the last gradient of a group or bucket comes from; the double finds what is
// early.
TEST_P(TorchGpu, GradientsComeFromTheStreamsThatMadeThem) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const c10::impl::VirtualGuardImpl device(gpu.type());
    const c10::Stream main = device.getStream(gpu);
    const auto order = [](const c10::Stream& first, const c10::Stream& second) {
      c10::Event now(first.device_type());
      now.record(first);
      now.block(second);
    };
    for (const int num_groups : {0, 1, 2}) {
      NamedParameters parameters;
      std::vector<Tensor> plain;
      std::vector<c10::Stream> streams;
      for (const int64_t count : {2, 300, 4, 5}) {
        plain.push_back(rows(0, count).to(gpu).requires_grad_(true));
        parameters.emplace_back(std::to_string(count), plain.back());
        streams.push_back(device.getNewStream(gpu));
      }
      DistributedOptimizerOptions options = on(engine);
      options.num_groups = num_groups;
      DistributedOptimizer optimizer(plain_sgd(plain), parameters, options);
      for (int step = 0; step < 4; ++step) {
        optimizer.zero_grad();
        for (size_t i = 0; i < plain.size(); ++i) {
          order(main, streams[i]);
          device.exchangeStream(streams[i]);
          (plain[i] * (engine.rank() + static_cast<int>(i))).sum().backward();
          device.exchangeStream(main);
        }
        for (const c10::Stream& stream : streams) order(stream, main);
        optimizer.step();
      }
      const double mean = (engine.size() - 1) / 2.0;
      for (size_t i = 0; i < plain.size(); ++i) {
        expect_equal(plain[i].detach(),
                     rows(0, plain[i].size(0)) - 4 * (mean + static_cast<double>(i)), gpu);
      }
    }
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

TEST(TorchGpuOfTwo, AdasumOfStepsIsThatOfTheCpu) {
  on_gpus(2, [](Engine& engine, at::Device gpu) {
    const auto trained = [&](at::Device device, bool mixed) {
      return train(engine, device, mixed, [](auto& options) { options.op = ReduceOp::kAdasum; });
    };
    const Trained there = trained(gpu, /*mixed=*/false);
    const Trained expected = trained(at::kCPU, /*mixed=*/false);
    EXPECT_LT(largest_difference(there.parameters, expected.parameters), 1e-9);
    EXPECT_EQ(there.waits, 0U);
    const Trained mixed = trained(gpu, /*mixed=*/true);
    EXPECT_LT(largest_difference(mixed.parameters, expected.parameters), 1e-9);
  });
}

}  // namespace
}  // namespace khorus::torch::testing
