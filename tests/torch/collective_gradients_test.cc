// The gradients of the blocking collectives: those of the sum of all ranks' losses.
//
// Every rank's loss is a weighted sum of its result, so the expected gradients can be written down.
#include <torch/torch.h>

#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

constexpr int kRanks = 3;

CollectiveOptions named(Engine& engine, const char* name) {
  return {name, kGlobalProcessSet, &engine};
}

ReduceOptions reduced(Engine& engine, const char* name, ReduceOp op) {
  ReduceOptions options;
  options.name = name;
  options.op = op;
  options.engine = &engine;
  return options;
}

Tensor counted(at::IntArrayRef shape, double first) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return (::torch::arange(count, ::torch::kFloat64) + first).view(shape);
}

// The weights of a rank's loss, known to all ranks.
Tensor weights(at::IntArrayRef shape, int rank) { return counted(shape, 1) * (rank + 1); }

Tensor sum_of_weights(at::IntArrayRef shape) {
  Tensor sum = ::torch::zeros(shape, ::torch::kFloat64);
  for (int rank = 0; rank < kRanks; ++rank) sum += weights(shape, rank);
  return sum;
}

TEST(CollectiveGradients, OfAllreduce) {
  run_world({kRanks}, [](Engine& engine) {
    const Tensor x = counted({2, 3}, engine.rank()).requires_grad_(true);
    auto options = reduced(engine, "a", ReduceOp::kSum);
    options.prescale_factor = 2;
    (allreduce(x, options) * weights({2, 3}, engine.rank())).sum().backward();
    EXPECT_TRUE(x.grad().equal(sum_of_weights({2, 3}) * 2));
    x.mutable_grad() = Tensor();
    const Tensor mean = allreduce(x, reduced(engine, "b", ReduceOp::kAverage));
    // Square: the gradient depends on what was reduced.
    (mean * mean * weights({2, 3}, engine.rank())).sum().backward();
    EXPECT_TRUE(x.grad().allclose(2 * mean * sum_of_weights({2, 3}) / kRanks));
    // Without autograd, and in place, nothing is recorded.
    const ::torch::NoGradGuard no_grad;
    EXPECT_FALSE(allreduce(x, reduced(engine, "c", ReduceOp::kSum)).requires_grad());
  });
}

TEST(CollectiveGradients, OfGroupsWithAMemberThatIsNotUsed) {
  run_world({kRanks}, [](Engine& engine) {
    const Tensor x = counted({2}, 0).requires_grad_(true), y = counted({3}, 0).requires_grad_(true);
    const auto group = grouped_allreduce({x, y}, reduced(engine, "g", ReduceOp::kSum));
    // Only rank 1 uses the second.
    Tensor loss = (group[0] * weights({2}, engine.rank())).sum();
    if (engine.rank() == 1) loss = loss + group[1].sum();
    loss.backward();
    EXPECT_TRUE(x.grad().equal(sum_of_weights({2})));
    EXPECT_TRUE(y.grad().eq(1).all().item<bool>());
  });
}

TEST(CollectiveGradients, OfAllgather) {
  run_world({kRanks}, [](Engine& engine) {
    const int64_t rank = engine.rank();
    // Rank r has r rows of two, and a scalar.
    const Tensor x = counted({rank, 2}, 0).requires_grad_(true);
    const Tensor scalar = ::torch::tensor(1.5, ::torch::kFloat64).requires_grad_(true);
    (allgather(x, named(engine, "a")) * weights({3, 2}, engine.rank())).sum().backward();
    const int64_t first = rank == 2 ? 1 : 0;
    EXPECT_TRUE(x.grad().equal(sum_of_weights({3, 2}).narrow(0, first, rank)));
    x.mutable_grad() = Tensor();
    const auto group = grouped_allgather({x, scalar}, named(engine, "g"));
    ((group[0] * weights({3, 2}, engine.rank())).sum() +
     (group[1] * weights({3}, engine.rank())).sum())
        .backward();
    EXPECT_TRUE(x.grad().equal(sum_of_weights({3, 2}).narrow(0, first, rank)));
    EXPECT_TRUE(scalar.grad().equal(sum_of_weights({3})[rank]));
  });
}

TEST(CollectiveGradients, OfBroadcast) {
  run_world({kRanks}, [](Engine& engine) {
    const Tensor x = counted({4}, engine.rank()).requires_grad_(true);
    const Tensor expected =
        engine.rank() == 1 ? sum_of_weights({4}) : ::torch::zeros({4}, ::torch::kFloat64);
    (broadcast(x, 1, named(engine, "a")) * weights({4}, engine.rank())).sum().backward();
    EXPECT_TRUE(x.grad().equal(expected));
    x.mutable_grad() = Tensor();
    const auto group = grouped_broadcast({x}, 1, named(engine, "g"));
    (group[0] * weights({4}, engine.rank())).sum().backward();
    EXPECT_TRUE(x.grad().equal(expected));
  });
}

TEST(CollectiveGradients, OfAlltoall) {
  run_world({kRanks}, [](Engine& engine) {
    const int64_t rank = engine.rank();
    // Rank r sends r + 1 rows to everybody, so rank d gets rows of 1, 2 and 3, weighted by d + 1.
    const int64_t rows = rank + 1;
    const Tensor x = counted({3 * rows, 2}, 0).requires_grad_(true);
    const std::vector<int64_t> splits(3, rows);
    std::vector<Tensor> parts;
    const int64_t first = rank * (rank + 1) / 2;  // of this rank's rows there
    for (int to = 0; to < kRanks; ++to) parts.push_back(weights({6, 2}, to).narrow(0, first, rows));
    const Tensor expected = ::torch::cat(parts);
    const auto whole = alltoall(x, splits, named(engine, "a"));
    EXPECT_EQ(whole.received_splits, (std::vector<int64_t>{1, 2, 3}));
    (whole.output * weights({6, 2}, engine.rank())).sum().backward();
    EXPECT_TRUE(x.grad().equal(expected));
    x.mutable_grad() = Tensor();
    const auto group = grouped_alltoall({x}, {splits}, named(engine, "g"));
    (group[0].output * weights({6, 2}, engine.rank())).sum().backward();
    EXPECT_TRUE(x.grad().equal(expected));
  });
}

TEST(CollectiveGradients, OfReducescatter) {
  run_world({kRanks}, [](Engine& engine) {
    const int64_t rank = engine.rank(), rows = rank == 0 ? 2 : 1;  // of four
    const Tensor x = counted({4, 2}, 0).requires_grad_(true);
    const Tensor expected =
        ::torch::cat({weights({2, 2}, 0), weights({1, 2}, 1), weights({1, 2}, 2)});
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAverage}) {
      const double factor = op == ReduceOp::kSum ? 1 : 1.0 / kRanks;
      x.mutable_grad() = Tensor();
      (reducescatter(x, reduced(engine, "a", op)) * weights({rows, 2}, engine.rank()))
          .sum()
          .backward();
      EXPECT_TRUE(x.grad().allclose(expected * factor));
      x.mutable_grad() = Tensor();
      const auto group = grouped_reducescatter({x}, reduced(engine, "g", op));
      (group[0] * weights({rows, 2}, engine.rank())).sum().backward();
      EXPECT_TRUE(x.grad().allclose(expected * factor));
    }
  });
}

// A layer cut by its outputs, as in tensor parallelism: the gradients are those of the whole layer.
TEST(CollectiveGradients, MakeACutLayerTheWholeOne) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = counted({4, 3}, -5), x = counted({2, 3}, 1);
    const Tensor whole = w.clone().requires_grad_(true);
    const Tensor mine = w.narrow(0, engine.rank() * 2, 2).clone().requires_grad_(true);
    ::torch::tanh(x.matmul(whole.t()) * 0.01).square().sum().backward();
    const Tensor parts = allgather(x.matmul(mine.t()).t(), named(engine, "cut"));
    // Both ranks compute the same loss: each counts for one half.
    (::torch::tanh(parts.t() * 0.01).square().sum() / 2).backward();
    EXPECT_TRUE(mine.grad().allclose(whole.grad().narrow(0, engine.rank() * 2, 2)));
  });
}

}  // namespace
}  // namespace khorus::torch::testing
