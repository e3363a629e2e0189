// SyncBatchNorm: batch normalisation over the batches of all ranks.
//
//   torch::nn::Sequential net(torch::nn::Conv2d(1, 16, 3), khorus::torch::SyncBatchNorm(16));
//
// While training, mean and variance are those of all ranks' batches together, which may differ in
// size and may be empty: the outputs and the gradients are those of torch::nn::BatchNorm on the
// whole batch. In eval mode it uses the running statistics and talks to nobody. Parameters and
// buffers have BatchNorm's names, so their checkpoints fit each other.
//
// Ioffe and Szegedy, "Batch Normalization", 2015. Every forward() and backward() while training is
// a collective operation: all ranks make the same ones in the same order. The gradient of weight
// and bias is that of this rank's part; a DistributedOptimizer averages it like any other.
//
// Thread rule: as any module; one thread at a time.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "khorus/engine.h"

namespace khorus::torch {

struct SyncBatchNormOptions {
  int64_t num_features = 0;  // the second extent of the input
  double eps = 1e-5;
  // Weight of the new statistics in the running ones; none: the plain average of all so far.
  std::optional<double> momentum = 0.1;
  bool affine = true;
  bool track_running_stats = true;
  std::string name = "sync_batch_norm";  // prefix of the names of the operations
  ProcessSetId process_set = kGlobalProcessSet;
  Engine* engine = nullptr;  // null: the default engine
};

class SyncBatchNormImpl : public ::torch::nn::Cloneable<SyncBatchNormImpl> {
 public:
  explicit SyncBatchNormImpl(int64_t num_features);
  explicit SyncBatchNormImpl(const SyncBatchNormOptions& options);

  // input: floating, [batch, num_features, ...]. Returns the same shape. Throws Error when the
  // shape is wrong, and when the ranks together have fewer than two values per feature.
  ::torch::Tensor forward(const ::torch::Tensor& input);

  void reset() override;  // fresh parameters and statistics
  void pretty_print(std::ostream& stream) const override;

  SyncBatchNormOptions options;
  ::torch::Tensor weight, bias;                                    // undefined unless affine
  ::torch::Tensor running_mean, running_var, num_batches_tracked;  // undefined unless tracked

 private:
  void track(const ::torch::Tensor& statistics);
};

// The module holder, as those that TORCH_MODULE makes.
class SyncBatchNorm : public ::torch::nn::ModuleHolder<SyncBatchNormImpl> {
 public:
  using ::torch::nn::ModuleHolder<SyncBatchNormImpl>::ModuleHolder;
  using Impl [[maybe_unused]] = SyncBatchNormImpl;
};

}  // namespace khorus::torch
