// What is wrong with a call is said in the same words on every rank, and the engine stays usable.
#include <torch/torch.h>

#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

using ::testing::HasSubstr;

// One wrong call, made on every rank of a world of three; `say` is part of the error.
struct Misuse {
  const char* say;
  std::function<void(Engine&)> call;
};

CollectiveOptions named_x(Engine& engine, ProcessSetId set = kGlobalProcessSet) {
  return {"x", set, &engine};
}

ReduceOptions reduction(Engine& engine, ReduceOp op = ReduceOp::kSum) {
  ReduceOptions options;
  options.name = "x";
  options.op = op;
  options.engine = &engine;
  return options;
}

SendOptions exchange(Engine& engine) { return {0, kGlobalProcessSet, &engine}; }

Tensor ones(at::IntArrayRef shape, ::torch::Dtype dtype = ::torch::kFloat32) {
  return ::torch::ones(shape, dtype);
}

// A sparse tensor with one entry.
Tensor entry(std::vector<int64_t> shape, ::torch::Dtype dtype = ::torch::kFloat32) {
  const Tensor index = ::torch::zeros({1, 1}, ::torch::kInt64);
  std::vector<int64_t> values = shape;
  values[0] = 1;
  return ::torch::sparse_coo_tensor(index, ones(values, dtype), shape);
}

// Runs all, each on all ranks, and compares the words. A good operation after each.
void expect_refused(StatusCode code, const std::vector<Misuse>& cases) {
  constexpr int kWorld = 3;
  std::vector<std::vector<std::string>> words(cases.size(), std::vector<std::string>(kWorld));
  run_world({kWorld}, [&](Engine& engine) {
    const auto rank = static_cast<size_t>(engine.rank());
    for (size_t i = 0; i < cases.size(); ++i) {
      try {
        cases[i].call(engine);
        words[i][rank] = "nothing was thrown";
      } catch (const Error& error) {
        EXPECT_EQ(error.status().code(), code) << error.what();
        words[i][rank] = error.what();
      }
      const Tensor sum = allreduce(ones({2}), reduction(engine));
      EXPECT_TRUE(sum.eq(kWorld).all().item<bool>()) << "after " << cases[i].say;
    }
  });
  for (size_t i = 0; i < cases.size(); ++i) {
    for (const std::string& said : words[i]) {
      EXPECT_THAT(said, HasSubstr(cases[i].say));
      EXPECT_EQ(said, words[i][0]);
    }
  }
}

TEST(Misuse, OfReductionsIsRefusedBeforeAnythingIsSent) {
  expect_refused(
      StatusCode::kInvalidArgument,
      {
          {"\"x\" is undefined", [](Engine& e) { allreduce(Tensor(), reduction(e)); }},
          {"\"x\" is undefined", [](Engine& e) { allreduce_(Tensor(), reduction(e)); }},
          {"\"x\" is sparse",
           [](Engine& e) {
             allreduce(entry({3, 2}), reduction(e));
           }},
          {"dtype ComplexFloat",
           [](Engine& e) { allreduce(ones({2}, ::torch::kComplexFloat), reduction(e)); }},
          {"\"x.1\" is undefined",
           [](Engine& e) {
             grouped_allreduce({ones({2}), Tensor()}, reduction(e));
           }},
          {"bool has no average",
           [](Engine& e) {
             allreduce(ones({2}, ::torch::kBool), reduction(e, ReduceOp::kAverage));
           }},
          {"finite",
           [](Engine& e) {
             auto options = reduction(e);
             options.postscale_factor = std::numeric_limits<double>::infinity();
             allreduce(ones({2}), options);
           }},
          {"power of two",
           [](Engine& e) { allreduce(ones({2}), reduction(e, ReduceOp::kAdasum)); }},
          {"process set 9",
           [](Engine& e) {
             auto options = reduction(e);
             options.process_set = 9;
             allreduce(ones({2}), options);
           }},
          {"reducescatter", [](Engine& e) { reducescatter(::torch::tensor(1.0), reduction(e)); }},
          {"reducescatter tensor \"x\" is undefined",
           [](Engine& e) { reducescatter(Tensor(), reduction(e)); }},
          {"reducescatter tensor \"x.0\" is sparse",
           [](Engine& e) {
             grouped_reducescatter({entry({3, 2})}, reduction(e));
           }},
          {"not sparse COO", [](Engine& e) { sparse_allreduce(ones({2}), reduction(e)); }},
          {"not sparse COO", [](Engine& e) { sparse_allreduce(Tensor(), reduction(e)); }},
          {"sum and average, not max",
           [](Engine& e) {
             sparse_allreduce(entry({3, 2}), reduction(e, ReduceOp::kMax));
           }},
          {"floating types",
           [](Engine& e) {
             sparse_allreduce(entry({3, 2}, ::torch::kInt32), reduction(e));
           }},
          {"no gradient of op max",
           [](Engine& e) {
             const Tensor x = ones({2}).requires_grad_(true);
             allreduce(x, reduction(e, ReduceOp::kMax)).sum().backward();
           }},
      });
}

TEST(Misuse, OfOtherCollectivesIsRefusedBeforeAnythingIsSent) {
  expect_refused(
      StatusCode::kInvalidArgument,
      {
          {"allgather tensor \"x\" is undefined",
           [](Engine& e) { allgather(Tensor(), named_x(e)); }},
          {"allgather tensor \"x.1\" is sparse",
           [](Engine& e) {
             grouped_allgather({ones({2}), entry({3, 2})}, named_x(e));
           }},
          {"root rank 7", [](Engine& e) { broadcast(ones({2}), 7, named_x(e)); }},
          {"root rank -1", [](Engine& e) { broadcast_(ones({2}), -1, named_x(e)); }},
          {"root rank 3", [](Engine& e) { grouped_broadcast({ones({2})}, 3, named_x(e)); }},
          {"broadcast tensor \"x.0\" is undefined",
           [](Engine& e) { grouped_broadcast_({Tensor()}, 0, named_x(e)); }},
          {"root rank 5",
           [](Engine& e) {
             broadcast_parameters({{"w", ones({2})}}, 5, named_x(e));
           }},
          {"alltoall", [](Engine& e) { alltoall(ones({4}), {}, named_x(e)); }},
          {"alltoall",
           [](Engine& e) {
             alltoall(ones({4}), {1, 1, 1}, named_x(e));
           }},
          {"alltoall",
           [](Engine& e) {
             alltoall(ones({4}), {2, 2}, named_x(e));
           }},
          {"alltoall",
           [](Engine& e) {
             alltoall(ones({4}), {5, -1, 0}, named_x(e));
           }},
          {"alltoall", [](Engine& e) { alltoall(::torch::tensor(1.0), {}, named_x(e)); }},
          {"alltoall tensor \"x\" is undefined",
           [](Engine& e) { alltoall(Tensor(), {}, named_x(e)); }},
          {"splits",
           [](Engine& e) {
             grouped_alltoall({ones({3}), ones({3})}, {{1, 1, 1}}, named_x(e));
           }},
          {"process set 9", [](Engine& e) { barrier(named_x(e, 9)); }},
          {"process set 9", [](Engine& e) { ProcessSet(9, &e); }},
          {"send tensor", [](Engine& e) { send(Tensor(), 1, exchange(e)); }},
          {"recv tensor", [](Engine& e) { recv(Tensor(), 1, exchange(e)); }},
          {"add_process_set", [](Engine& e) { add_process_set({}, &e); }},
          {"add_process_set",
           [](Engine& e) {
             add_process_set({1, 1}, &e);
           }},
          {"add_process_set",
           [](Engine& e) {
             add_process_set({0, 3}, &e);
           }},
          {"remove_process_set",
           [](Engine& e) { remove_process_set(ProcessSet(kGlobalProcessSet, &e), &e); }},
      });
}

// These name the rank that called, so the words differ.
TEST(Misuse, OfPeersIsRefused) {
  run_world({3}, [](Engine& engine) {
    const int rank = engine.rank();
    const auto refused = [&](const std::function<void()>& call) {
      try {
        call();
        ADD_FAILURE() << "nothing was thrown";
      } catch (const Error& error) {
        EXPECT_EQ(error.status().code(), StatusCode::kInvalidArgument) << error.what();
        EXPECT_THAT(error.what(), HasSubstr("rank " + std::to_string(rank)));
      }
    };
    refused([&] { send(ones({2}), rank, exchange(engine)); });
    refused([&] { recv(ones({2}), rank, exchange(engine)); });
    const ProcessSet pair = add_process_set({0, 1}, &engine);
    auto options = reduction(engine);
    options.process_set = pair.process_set_id();
    if (!pair.included()) {
      refused([&] { allreduce(ones({2}), options); });
      auto of_set = on(engine);
      of_set.process_set = pair.process_set_id();
      const Tensor w = leaf({1});
      refused([&] { DistributedOptimizer(plain_sgd({w}), {{"w", w}}, of_set); });
    }
    // A name that is under way: the others submit it only after the barrier.
    Handle first;
    if (rank == 1) {
      first = allreduce_async(ones({2}), reduction(engine));
      EXPECT_THROW(allreduce(ones({2}), reduction(engine)), Error);
    }
    barrier({"go", kGlobalProcessSet, &engine});
    if (rank != 1) first = allreduce_async(ones({2}), reduction(engine));
    first.wait();
    barrier(named_x(engine));
    remove_process_set(pair, &engine);
    EXPECT_THROW(remove_process_set(pair, &engine), Error);
    EXPECT_EQ(allreduce(ones({1}), reduction(engine)).item<float>(), 3);
  });
}

// Rank 2 makes another call than the others.
bool odd(Engine& engine) { return engine.rank() == 2; }
int64_t two_or_three(Engine& engine) { return odd(engine) ? 3 : 2; }
::torch::Dtype float_or_double(Engine& engine) {
  return odd(engine) ? ::torch::kFloat64 : ::torch::kFloat32;
}

TEST(Misuse, MismatchesOfReductionsAreErrorsOnAllRanks) {
  expect_refused(
      StatusCode::kMismatch,
      {
          {"\"x\"", [](Engine& e) { allreduce(ones({two_or_three(e)}), reduction(e)); }},
          {"\"x\"", [](Engine& e) { allreduce(ones({2}, float_or_double(e)), reduction(e)); }},
          {"\"x\"",
           [](Engine& e) {
             allreduce_(ones({2}), reduction(e, odd(e) ? ReduceOp::kMax : ReduceOp::kSum));
           }},
          {"\"x\"",
           [](Engine& e) {
             auto options = reduction(e);
             options.prescale_factor = odd(e) ? 2 : 1;
             allreduce(ones({2}), options);
           }},
          {"\"x\"",
           [](Engine& e) {
             auto options = reduction(e);
             options.compression = odd(e) ? Compression::fp16 : Compression::none;
             allreduce(ones({2}), options);
           }},
          {"\"x.1\"",
           [](Engine& e) {
             grouped_allreduce({ones({2}), ones({two_or_three(e)})}, reduction(e));
           }},
          {"\"x\"", [](Engine& e) { reducescatter(ones({two_or_three(e)}), reduction(e)); }},
          {"\"x\"",
           [](Engine& e) {
             reducescatter(ones({2}), reduction(e, odd(e) ? ReduceOp::kMin : ReduceOp::kSum));
           }},
          {"\"x.0\"",
           [](Engine& e) { grouped_reducescatter({ones({two_or_three(e)})}, reduction(e)); }},
          {"extents [3]",
           [](Engine& e) {
             sparse_allreduce(entry({two_or_three(e), 2}), reduction(e));
           }},
          {"\"x.values\"",
           [](Engine& e) {
             sparse_allreduce(entry({5, two_or_three(e)}), reduction(e));
           }},
          {"\"x.values\"",
           [](Engine& e) {
             sparse_allreduce(entry({5, 2}, float_or_double(e)), reduction(e));
           }},
          {"op average",
           [](Engine& e) {
             sparse_allreduce(entry({5, 2}),
                              reduction(e, odd(e) ? ReduceOp::kAverage : ReduceOp::kSum));
           }},
          {"factor 4.0",
           [](Engine& e) {
             auto options = reduction(e);
             options.postscale_factor = odd(e) ? 4 : 1;
             sparse_allreduce(entry({5, 2}), options);
           }},
      });
}

TEST(Misuse, MismatchesOfOtherCollectivesAreErrorsOnAllRanks) {
  expect_refused(
      StatusCode::kMismatch,
      {
          {"\"x\"",
           [](Engine& e) {
             allgather(ones({2, two_or_three(e)}), named_x(e));
           }},
          {"\"x\"", [](Engine& e) { allgather(ones({2}, float_or_double(e)), named_x(e)); }},
          {"\"x.1\"",
           [](Engine& e) {
             grouped_allgather({ones({2}), ones({2}, float_or_double(e))}, named_x(e));
           }},
          {"\"x\"", [](Engine& e) { broadcast(ones({2}), odd(e) ? 1 : 0, named_x(e)); }},
          {"\"x\"", [](Engine& e) { broadcast_(ones({two_or_three(e)}), 0, named_x(e)); }},
          {"\"x.0\"",
           [](Engine& e) { grouped_broadcast({ones({two_or_three(e)})}, 0, named_x(e)); }},
          {"w",
           [](Engine& e) {
             broadcast_parameters({{"w", ones({two_or_three(e)})}}, 0, named_x(e));
           }},
          {"\"x\"",
           [](Engine& e) {
             alltoall(ones({3, two_or_three(e)}), {}, named_x(e));
           }},
          {"\"x.1\"",
           [](Engine& e) {
             grouped_alltoall({ones({3}), ones({3}, float_or_double(e))}, {}, named_x(e));
           }},
          {"\"x\"",
           [](Engine& e) {
             if (odd(e)) {
               allgather(ones({2}), named_x(e));
             } else {
               allreduce(ones({2}), reduction(e));
             }
           }},
          {"add_process_set",
           [](Engine& e) {
             add_process_set(odd(e) ? std::vector{0, 1} : std::vector{0, 2}, &e);
           }},
      });
}

TEST(Misuse, MismatchesBetweenSenderAndReceiverAreErrorsOnBoth) {
  run_world({2}, [](Engine& engine) {
    const auto send_or_recv = [&](const Tensor& sent, const Tensor& received) {
      if (engine.rank() == 0) {
        send(sent, 1, exchange(engine));
      } else {
        recv(received, 0, exchange(engine));
      }
    };
    const auto mismatch = [&](const Tensor& sent, const Tensor& received) {
      try {
        send_or_recv(sent, received);
        ADD_FAILURE() << "nothing was thrown on rank " << engine.rank();
      } catch (const Error& error) {
        EXPECT_EQ(error.status().code(), StatusCode::kMismatch) << error.what();
      }
    };
    mismatch(ones({2}), ones({3}));
    mismatch(ones({2}), ones({2}, ::torch::kFloat64));
    const Tensor good = ones({2}) * 5, landing = ones({2});
    send_or_recv(good, landing);
    EXPECT_EQ(landing[0].item<float>(), engine.rank() == 1 ? 5 : 1);
  });
}

// Different models or options on the ranks: the optimizer's error is on all ranks, and a good one
// trains afterwards.
TEST(Misuse, OfTheOptimizerIsAnErrorOnAllRanks) {
  run_world({2}, [](Engine& engine) {
    const bool second = engine.rank() == 1;
    const auto step = [&](const Tensor& w, const DistributedOptimizerOptions& options) {
      DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, options);
      w.sum().backward();
      optimizer.step();
    };
    const auto mismatch = [&](const Tensor& w, const DistributedOptimizerOptions& options) {
      try {
        step(w, options);
        ADD_FAILURE() << "nothing was thrown on rank " << engine.rank();
      } catch (const Error& error) {
        EXPECT_EQ(error.status().code(), StatusCode::kMismatch) << error.what();
        EXPECT_THAT(error.what(), HasSubstr("\"w\""));
      }
    };
    mismatch(second ? leaf({1, 1}) : leaf({1}), on(engine));
    auto options = on(engine);
    options.op = second ? ReduceOp::kSum : ReduceOp::kAverage;
    mismatch(leaf({1}), options);
    options = on(engine);
    options.compression = second ? Compression::fp16 : Compression::bf16;
    mismatch(leaf({1}), options);
    options = on(engine);
    options.gradient_predivide_factor = second ? 2 : 1;
    mismatch(leaf({1}), options);
    const Tensor w = leaf({1});
    step(w, on(engine));
    EXPECT_EQ(w.item<double>(), 0);
  });
}

}  // namespace
}  // namespace khorus::torch::testing
