// Checkpoints of models on a GPU, on a device of the tests' own (torch_device.h) and on the CPU.
#include <ATen/Context.h>
#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/gpu/torch_net.h"
#include "tests/gpu/torch_ranks.h"
#include "tests/torch/temporary_folder.h"

namespace khorus::torch::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TorchGpuCheckpoint : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, TorchGpuCheckpoint, ::testing::Values(1, 2, 3));

// What was saved on a GPU goes on on the CPU, and the other way round.
TEST_P(TorchGpuCheckpoint, AreReadOnEitherDevice) {
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

// ---- random numbers

// What torch warns the calling thread of.
struct Warnings : c10::WarningHandler {
  void process(const c10::Warning& warning) override { heard.push_back(warning.msg()); }
  std::vector<std::string> heard;
};

// A run on the device: saves and loads, and draws numbers there.
class Training {
 public:
  Training(Engine& engine, at::Device device)
      : net(device, device), optimizer(make_adamw(net.parameters())), device_(device) {
    options_.engine = &engine;
  }
  void save(const std::string& path) {
    save_checkpoint(path, TrainingState{net, *optimizer, 1, {}}, options_);
  }
  // Returns what torch warned of.
  std::vector<std::string> load(const std::string& path) {
    Warnings warnings;
    const c10::WarningUtils::WarningHandlerGuard guard(&warnings);
    TrainingState state{net, *optimizer, 0, {}};
    load_checkpoint(path, state, options_);
    return warnings.heard;
  }
  Tensor draw() const { return ::torch::rand({4}, device_).cpu(); }

  NetOnDevices net;
  std::unique_ptr<::torch::optim::Optimizer> optimizer;

 private:
  const at::Device device_;
  CheckpointOptions options_;
};

TEST_P(TorchGpuCheckpoint, HoldsTheRandomNumbersOfEveryRanksGpu) {
  const TemporaryFolder folder;
  const std::string path = folder / "checkpoint.safetensors";
  on_gpus(GetParam(), [&](Engine& engine, at::Device gpu) {
    at::Generator generator = at::globalContext().defaultGenerator(gpu);
    generator.set_current_seed(100 + static_cast<uint64_t>(engine.rank()));
    Training run(engine, gpu);
    EXPECT_FALSE(run.draw().equal(run.draw()));
    run.save(path);
    const Tensor expected = run.draw();
    generator.set_current_seed(7);
    Training resumed(engine, gpu);
    EXPECT_THAT(resumed.load(path), ElementsAre());
    EXPECT_TRUE(resumed.draw().equal(expected));
  });
  const Safetensors content = load_safetensors(path);
  std::set<std::string> states;
  for (int rank = 0; rank < GetParam(); ++rank) {
    const Tensor state = content.tensors.at("gpu_rng." + std::to_string(rank));
    EXPECT_EQ(state.numel(), 16);
    states.emplace(static_cast<const char*>(state.data_ptr()), 16);
    EXPECT_TRUE(content.tensors.contains("rng." + std::to_string(rank)));
  }
  EXPECT_EQ(states.size(), static_cast<size_t>(GetParam()));
}

// The numbers of the device that is in use go on as they are, and rank 0 says why.
TEST_P(TorchGpuCheckpoint, SaysWhenTheRandomNumbersAreOfAnotherDevice) {
  const TemporaryFolder folder;
  on_gpus(GetParam(), [&](Engine& engine, at::Device gpu) {
    const auto expect = [&](const std::vector<std::string>& warnings, const std::string& words) {
      ASSERT_EQ(warnings.size(), engine.rank() == 0 ? 1U : 0U);
      if (engine.rank() == 0) {
        EXPECT_THAT(warnings[0], HasSubstr(words));
      }
    };
    Training there(engine, gpu), here(engine, at::kCPU);
    there.save(folder / "gpu");
    here.save(folder / "cpu");
    expect(here.load(folder / "gpu"),
           "was saved on a GPU, and the model is on the CPU: the state of the GPU's random numbers "
           "is left out");
    at::Generator generator = at::globalContext().defaultGenerator(gpu);
    const Tensor before = generator.get_state();
    expect(there.load(folder / "cpu"),
           "has no state of a GPU's random numbers (it was saved on the CPU, or before they were "
           "kept): those of " +
               gpu.str() + " go on as they are");
    EXPECT_TRUE(generator.get_state().equal(before));
    EXPECT_THAT(here.load(folder / "cpu"), ElementsAre());
  });
}

TEST(TorchGpuCheckpointErrors, WhatIsNoStateChangesNothing) {
  const TemporaryFolder folder;
  const std::string path = folder / "checkpoint";
  on_gpus(1, [&](Engine& engine, at::Device gpu) {
    Training run(engine, gpu);
    run.save(path);
    Safetensors content = load_safetensors(path);
    content.tensors["gpu_rng.0"] = ::torch::zeros({5}, ::torch::kUInt8);
    save_safetensors(path, content);
    at::Generator cpu = at::globalContext().defaultGenerator(at::kCPU);
    cpu.set_current_seed(3);
    const Tensor before = cpu.get_state();
    try {
      run.load(path);
      ADD_FAILURE() << "it was loaded";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("\"gpu_rng.0\" is not the state of a random number "
                                          "generator of " +
                                          gpu.str()));
    }
    EXPECT_TRUE(cpu.get_state().equal(before));
  });
}

}  // namespace
}  // namespace khorus::torch::testing
