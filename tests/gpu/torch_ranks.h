// What the tests of the libtorch front end on a GPU share: ranks as threads, each with a device of
// the tests' own (torch_device.h), which counts as CUDA; and a moment when a device is held up.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "tests/gpu/torch_device.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {

// The body of a rank, with its device.
inline void on_gpus(int size, const std::function<void(Engine&, at::Device)>& body) {
  WorldOptions options;
  options.size = size;
  run_world(options, [&](Engine& engine) {
    body(engine, {at::kPrivateUse1, static_cast<at::DeviceIndex>(engine.rank())});
  });
}

// The parameter: how many ranks.
class TorchGpu : public ::testing::TestWithParam<int> {};

// [rows, 4], different on every rank.
inline Tensor rows(int rank, int64_t count) {
  return ::torch::arange(4 * count, ::torch::kFloat32).view({count, 4}) + 100.0 * rank;
}
inline Tensor sum_of_rows(int size, int64_t count) {
  Tensor sum = ::torch::zeros({count, 4});
  for (int rank = 0; rank < size; ++rank) sum += rows(rank, count);
  return sum;
}
inline void expect_equal(const Tensor& there, const Tensor& expected, const at::Device& device) {
  EXPECT_EQ(there.device(), device);
  EXPECT_TRUE(there.cpu().allclose(expected)) << there.cpu() << "\nis not\n" << expected;
}

inline CollectiveOptions on_engine(Engine& engine, const char* name) {
  CollectiveOptions options;
  options.name = name;
  options.engine = &engine;
  return options;
}
inline ReduceOptions reducing(Engine& engine, const char* name, ReduceOp op = ReduceOp::kSum) {
  ReduceOptions options;
  options.name = name;
  options.op = op;
  options.engine = &engine;
  return options;
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

}  // namespace khorus::torch::testing
