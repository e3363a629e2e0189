// Sparse tensors of a GPU through the libtorch front end; see torch_test.cc. What the CPU makes of
// the same is tested in tests/torch/gradient_forms_test.cc.
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/gpu/torch_ranks.h"
#include "tests/torch/regression.h"

namespace khorus::torch::testing {
namespace {

using ::testing::HasSubstr;

// [extent, 4] with these rows of rows(rank); a row may be there twice.
Tensor sparse_rows(int rank, const std::vector<int64_t>& places, int64_t extent = 6) {
  const auto count = static_cast<int64_t>(places.size());
  return ::torch::sparse_coo_tensor(::torch::tensor(places, ::torch::kInt64).view({1, count}),
                                    rows(rank, count) * 0.3, {extent, 4});
}
// Rank 1 has none.
Tensor mine(int rank) {
  if (rank == 1) return sparse_rows(rank, {});
  return rank == 0 ? sparse_rows(rank, {4, 1, 4}) : sparse_rows(rank, {5, 4});
}

TEST_P(TorchGpu, SparseAllreduceIsThatOfTheCpu) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    ReduceOptions mean = reducing(engine, "mean", ReduceOp::kAverage);
    mean.prescale_factor = 0.5;
    mean.compression = Compression::fp16;
    for (const ReduceOptions& options : {reducing(engine, "sum"), mean}) {
      const Tensor expected = sparse_allreduce(mine(engine.rank()), options);
      // Under way together; what they are given and what they give is dropped early.
      std::vector<Handle> handles;
      for (int i = 0; i < 5; ++i) {
        ReduceOptions one = options;
        one.name += std::to_string(i);
        handles.push_back(sparse_allreduce_async(mine(engine.rank()).to(gpu), one));
        ::torch::zeros({3, 4}, gpu).add_(1);
      }
      for (Handle& handle : handles) {
        const Tensor there = handle.wait();
        EXPECT_TRUE(there.is_sparse() && there.is_coalesced());
        EXPECT_EQ(there.device(), gpu);
        EXPECT_TRUE(there.cpu().to_dense().equal(expected.to_dense()));
        EXPECT_TRUE(there.to_dense().cpu().equal(expected.to_dense()));
      }
    }
  });
}

TEST(TorchGpuOfTwo, SparseTensorsOfOtherShapesAreRefused) {
  on_gpus(2, [](Engine& engine, at::Device gpu) {
    const Tensor other = sparse_rows(0, {1}, /*extent=*/6 + engine.rank()).to(gpu);
    try {
      sparse_allreduce(other, reducing(engine, "x"));
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("rank 1 has extents [7], op sum"));
    }
  });
}

// ---- training

// An embedding, whose gradient may be sparse, beside dense parameters.
struct Words {
  Words(const at::Device& device, bool sparse_gradients)
      : sparse(sparse_gradients),
        words(parameter({7, 3}, device)),
        top(parameter({3, 2}, device)) {}
  static Tensor parameter(at::IntArrayRef shape, const at::Device& device) {
    const int64_t count = shape[0] * shape[1];
    const Tensor values = ::torch::cos(::torch::arange(count, ::torch::kFloat64) + 1).view(shape);
    return values.to(device).requires_grad_(true);
  }
  Tensor loss(const std::vector<int64_t>& tokens, bool dense = false) const {
    const Tensor chosen = ::torch::tensor(tokens, ::torch::kInt64).to(words.device());
    return ::torch::embedding(words, chosen, -1, false, sparse && !dense).mm(top).square().mean();
  }
  bool sparse;
  Tensor words, top;
};

using ChangeOptions = std::function<void(DistributedOptimizerOptions&)>;

std::vector<Tensor> train_words(Engine& engine, const Words& model, const ChangeOptions& change) {
  DistributedOptimizerOptions options = on(engine);
  change(options);
  DistributedOptimizer optimizer(plain_sgd({model.words, model.top}, 0.1),
                                 {{"words", model.words}, {"top", model.top}}, options);
  for (int64_t step = 0; step < 7; ++step) {
    optimizer.zero_grad(/*set_to_none=*/step % 4 != 2);
    // In steps 0, 3 and 6 the last rank uses nothing at all.
    if (step % 3 != 0 || engine.rank() + 1 < engine.size()) {
      for (int64_t pass = 0; pass < options.backward_passes_per_step; ++pass) {
        const bool dense = step == 5 && engine.rank() == 0;  // is converted
        model.loss({step % 7, engine.rank() + pass, engine.rank() + pass}, dense).backward();
      }
    }
    optimizer.step();
    if (step > 0 && model.sparse && engine.size() > 1) {
      EXPECT_EQ(model.words.grad().is_sparse(), !options.sparse_as_dense);
    }
  }
  return {model.words.detach().cpu(), model.top.detach().cpu()};
}

TEST_P(TorchGpu, TrainsWithSparseGradients) {
  const std::pair<const char*, ChangeOptions> variants[] = {
      {"plain", [](DistributedOptimizerOptions&) {}},
      {"as dense", [](DistributedOptimizerOptions& o) { o.sparse_as_dense = true; }},
      {"in groups", [](DistributedOptimizerOptions& o) { o.num_groups = 1; }},
      {"two passes", [](DistributedOptimizerOptions& o) { o.backward_passes_per_step = 2; }},
  };
  on_gpus(GetParam(), [&](Engine& engine, at::Device gpu) {
    for (const auto& [name, change] : variants) {
      const auto expected =
          train_words(engine, Words(at::kCPU, /*sparse_gradients=*/false), change);
      const auto trained = train_words(engine, Words(gpu, /*sparse_gradients=*/true), change);
      EXPECT_LT(largest_difference(trained, expected), 1e-9) << name;
    }
  });
}

// The double finds what is early.
TEST_P(TorchGpu, SparseGradientsComeFromTheStreamsThatMadeThem) {
  on_gpus(GetParam(), [](Engine& engine, at::Device gpu) {
    const c10::impl::VirtualGuardImpl device(gpu.type());
    const c10::Stream main = device.getStream(gpu), side = device.getNewStream(gpu);
    const auto order = [](const c10::Stream& first, const c10::Stream& second) {
      c10::Event now(first.device_type());
      now.record(first);
      now.block(second);
    };
    const Words here(at::kCPU, false), there(gpu, true);
    for (const Words& model : {here, there}) {
      DistributedOptimizer optimizer(plain_sgd({model.words, model.top}, 0.1),
                                     {{"words", model.words}, {"top", model.top}}, on(engine));
      for (int64_t step = 0; step < 4; ++step) {
        optimizer.zero_grad();
        if (model.sparse) order(main, side);
        if (model.sparse) device.exchangeStream(side);
        model.loss({step, engine.rank(), step}).backward();
        if (model.sparse) device.exchangeStream(main);
        if (model.sparse) order(side, main);
        optimizer.step();
      }
    }
    expect_equal(there.words.detach(), here.words.detach(), gpu);
    expect_equal(there.top.detach(), here.top.detach(), gpu);
  });
}

}  // namespace
}  // namespace khorus::torch::testing
