// alltoall, reducescatter, send and receive, join and process sets on tensors.
#include <torch/torch.h>

#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

using ::testing::HasSubstr;

CollectiveOptions called(Engine& engine, const std::string& name) {
  CollectiveOptions options;
  options.name = name;
  options.engine = &engine;
  return options;
}

ReduceOptions summed(Engine& engine, const std::string& name) {
  ReduceOptions options;
  options.name = name;
  options.op = ReduceOp::kSum;
  options.engine = &engine;
  return options;
}

SendOptions to_peer(Engine& engine, int tag = 0) {
  SendOptions options;
  options.tag = tag;
  options.engine = &engine;
  return options;
}

TEST(GroupedBroadcast, TakesTheRootsValues) {
  run_world({3}, [](Engine& engine) {
    const Tensor a = ::torch::full({2, 3}, engine.rank()), b = ::torch::full({4}, engine.rank());
    const auto copies = grouped_broadcast({a.t(), b}, 2, called(engine, "g"));
    EXPECT_TRUE(copies[0].eq(2).all().item<bool>() && copies[1].eq(2).all().item<bool>());
    EXPECT_TRUE(a.eq(engine.rank()).all().item<bool>());
    grouped_broadcast_({a.t(), b}, 1, called(engine, "g"));
    EXPECT_TRUE(a.eq(1).all().item<bool>() && b.eq(1).all().item<bool>());
  });
}

TEST(Alltoall, SendsEveryRankItsRows) {
  run_world({3}, [](Engine& engine) {
    const int64_t rank = engine.rank();
    // Rank r sends r + 1 rows to every rank, marked with r and the receiver.
    const int64_t rows = rank + 1;
    const Tensor mine = (::torch::arange(3).repeat_interleave(rows) + 10 * rank).view({-1, 1});
    const auto [output, received] =
        alltoall(mine.expand({-1, 2}), {rows, rows, rows}, called(engine, "a"));
    EXPECT_EQ(received, (std::vector<int64_t>{1, 2, 3}));
    ASSERT_EQ(output.sizes(), (std::vector<int64_t>{6, 2}));
    EXPECT_TRUE(output.select(1, 0).equal(::torch::tensor({0, 10, 10, 20, 20, 20}) + rank));
    const auto equal = alltoall(::torch::arange(3) + 10 * rank, {}, called(engine, "b"));
    EXPECT_TRUE(equal.output.equal(::torch::tensor({0, 10, 20}) + rank));
    const auto group = grouped_alltoall({mine, ::torch::ones({3})}, {{rows, rows, rows}, {0, 3, 0}},
                                        called(engine, "g"));
    EXPECT_EQ(group[0].output.size(0), 6);
    EXPECT_EQ(group[1].output.size(0), rank == 1 ? 9 : 0);
    EXPECT_EQ(group[1].received_splits, std::vector<int64_t>(3, rank == 1 ? 3 : 0));
  });
}

TEST(Reducescatter, KeepsThisRanksRows) {
  run_world({3}, [](Engine& engine) {
    const int64_t rank = engine.rank();
    const Tensor mine = ::torch::arange(8, ::torch::kFloat32).view({4, 2}) * (rank + 1);
    const Tensor whole = ::torch::arange(8, ::torch::kFloat32).view({4, 2}) * 6;
    const Tensor expected = rank == 0 ? whole.narrow(0, 0, 2) : whole.narrow(0, rank + 1, 1);
    EXPECT_TRUE(reducescatter(mine, summed(engine, "a")).equal(expected));
    auto options = summed(engine, "b");
    options.compression = Compression::bf16;
    const Tensor narrow = reducescatter(mine, options);
    EXPECT_EQ(narrow.scalar_type(), ::torch::kFloat32);
    EXPECT_TRUE(narrow.allclose(expected, 1e-2));
    const auto group = grouped_reducescatter({mine, mine * 2}, summed(engine, "g"));
    EXPECT_TRUE(group[1].equal(expected * 2));
  });
}

TEST(SendRecv, MeetByTagAndOrder) {
  run_world({2}, [](Engine& engine) {
    const int peer = 1 - engine.rank();
    const Tensor first = ::torch::full({3}, engine.rank() + 1.0), second = first * 10;
    Handle out1 = send_async(first, peer, to_peer(engine));
    Handle out2 = send_async(second, peer, to_peer(engine, 7));
    const Tensor into = ::torch::zeros({3, 2});
    Handle in2 = recv_async(into.select(1, 1), peer, to_peer(engine, 7));
    EXPECT_TRUE(recv(::torch::zeros({3}), peer, to_peer(engine)).eq(peer + 1).all().item<bool>());
    in2.wait();
    EXPECT_TRUE(into.select(1, 1).eq((peer + 1) * 10).all().item<bool>());
    EXPECT_TRUE(into.select(1, 0).eq(0).all().item<bool>());
    out1.wait();
    out2.wait();
  });
}

TEST(Join, GivesZerosUntilAllHaveJoined) {
  run_world({3}, [](Engine& engine) {
    const int rank = engine.rank();
    for (int step = 0; step <= rank; ++step) {
      const Tensor sum = allreduce(::torch::ones({2}), summed(engine, "x"));
      EXPECT_EQ(sum[0].item<float>(), 3 - step);
    }
    EXPECT_EQ(join(&engine), 2);
  });
}

// Ranks with more data than others: a rank that has joined gives zeros, and the mean is still over
// all ranks. With an embedding whose gradients are sparse, and a dense layer.
TEST(Join, TrainsOnUnevenInputs) {
  run_world({3}, [](Engine& engine) {
    const Tensor rows = ::torch::zeros({4, 1}, ::torch::kFloat64).requires_grad_(true);
    const Tensor w = leaf({0.0});
    DistributedOptimizer optimizer(plain_sgd({rows, w}), {{"rows", rows}, {"w", w}}, on(engine));
    const int rank = engine.rank();
    for (int step = 0; step <= rank; ++step) {
      optimizer.zero_grad();
      const Tensor row = ::torch::embedding(rows, ::torch::tensor({rank}), -1, false, true);
      (row * 3 + w * 6).sum().backward();
      optimizer.step();
    }
    EXPECT_EQ(join(&engine), 2);
    // Of three, two and then one rank's gradient of 6, divided by three.
    const double steps[] = {-6, -6 - 4, -6 - 4 - 2};
    EXPECT_NEAR(w.item<double>(), steps[rank], 1e-12);
    EXPECT_NEAR(rows[2].item<double>(), -(rank + 1), 1e-12);
    broadcast_parameters({{"rows", rows.detach()}, {"w", w.detach()}}, 2, called(engine, "end"));
    EXPECT_NEAR(w.item<double>(), -12, 1e-12);
    EXPECT_NEAR(rows[0].item<double>(), -1, 1e-12);
  });
}

TEST(ProcessSets, WorkWithCollectivesAndTheOptimizer) {
  run_world({3}, [](Engine& engine) {
    const ProcessSet outer = add_process_set({0, 2}, &engine);
    EXPECT_EQ(outer.ranks(), (std::vector<int>{0, 2}));
    EXPECT_EQ(outer.size(), 2);
    EXPECT_EQ(outer.included(), engine.rank() != 1);
    EXPECT_EQ(outer.rank(), engine.rank() == 1 ? -1 : engine.rank() / 2);
    EXPECT_EQ(ProcessSet(kGlobalProcessSet, &engine).size(), 3);
    if (outer.included()) {
      auto options = on(engine);
      options.process_set = outer.process_set_id();
      const Tensor w = leaf({0.0});
      DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, options);
      (w * (engine.rank() + 1)).sum().backward();  // 1 and 3
      optimizer.step();
      EXPECT_EQ(w.item<double>(), -2);
      auto gather = called(engine, "rows");
      gather.process_set = outer.process_set_id();
      EXPECT_EQ(allgather(::torch::ones({1}), gather).size(0), 2);
    }
    barrier(called(engine, "together"));
    remove_process_set(outer, &engine);
    EXPECT_THROW(ProcessSet(outer.process_set_id(), &engine), Error);
  });
}

}  // namespace
}  // namespace khorus::torch::testing
