// The gradient arena: the same bits as without it, whatever is done to the gradients, and where
// they lie.
#include <thread>

#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

// What happens in every step of a run, apart from training.
struct Habit {
  const char* name;
  std::function<void(Engine&, Net&, int64_t step)> before_backward = nullptr;
  std::function<void(Net&, int64_t step)> after_step = nullptr;
  bool set_to_none = true;
  int64_t passes = 1;
  bool create_graph = false;
  bool mixed_types = false;
  bool skips = false;  // a rank leaves layers out
  CompressorPtr compression = nullptr;
};

Tensor forward(Engine& engine, Net& net, const Habit& habit, int64_t step, int64_t pass) {
  auto [x, y] = examples(step, 4 * engine.rank() + 100 * pass, 4, ::torch::kFloat32);
  x = ::torch::tanh(net->first(x));
  if (!habit.skips || (step + engine.rank()) % 2 == 0) {
    x = x.to(net->second->weight.scalar_type());
    x = ::torch::tanh(net->second(x)).to(::torch::kFloat32);
  }
  return ::torch::mse_loss(net->third(x), y);
}

// The parameters after some steps, as one hash per step.
std::vector<int64_t> train(Engine& engine, const Habit& habit, bool arena) {
  Net net(::torch::kFloat32);
  if (habit.mixed_types) net->second->to(::torch::kFloat64);
  DistributedOptimizerOptions options = on(engine);
  options.gradient_arena = arena;
  options.backward_passes_per_step = habit.passes;
  options.compression = habit.compression;
  DistributedOptimizer optimizer(make_sgd(net->parameters()), net->named_parameters(), options);
  std::vector<int64_t> hashes;
  for (int64_t step = 0; step < 8; ++step) {
    optimizer.zero_grad(habit.set_to_none);
    if (habit.before_backward) habit.before_backward(engine, net, step);
    for (int64_t pass = 0; pass < habit.passes; ++pass) {
      forward(engine, net, habit, step, pass).backward({}, std::nullopt, habit.create_graph);
    }
    optimizer.step();
    if (habit.after_step) habit.after_step(net, step);
    hashes.push_back(hash_of(net->parameters()));
    require_identical(engine, net->parameters(), "in an arena");
  }
  return hashes;
}

std::vector<Habit> habits() {
  std::vector<Habit> all{{.name = "Plain"}};
  all.push_back({.name = "GradientsAreKept", .set_to_none = false});
  all.push_back({.name = "ThreePasses", .passes = 3});
  all.push_back({.name = "ThreePassesOnKeptGradients", .set_to_none = false, .passes = 3});
  all.push_back({.name = "MixedTypes", .mixed_types = true});
  all.push_back({.name = "UnusedLayers", .skips = true});
  all.push_back({.name = "GradientsWithAHistory", .create_graph = true});
  all.push_back({.name = "CastToFloat16", .mixed_types = true, .compression = Compression::fp16});
  all.push_back({.name = "KeptAndCastToBfloat16",
                 .set_to_none = false,
                 .skips = true,
                 .compression = Compression::bf16});
  all.push_back(
      {.name = "WithAHistoryAndCast", .create_graph = true, .compression = Compression::bf16});
  all.push_back(
      {.name = "GradientsReplacedByTheUser",
       .before_backward =
           [](Engine& engine, Net& net, int64_t step) {
             if (step % 3 == 0) return;
             net->third->weight.mutable_grad() = ::torch::full({3, 16}, 0.1 * engine.rank());
             if (net->first->bias.grad().defined()) {
               net->first->bias.mutable_grad() = net->first->bias.grad().detach();
             }
           },
       .set_to_none = false});
  all.push_back({.name = "FrozenAndThawed", .before_backward = [](Engine&, Net& net, int64_t step) {
                   net->second->weight.requires_grad_(step < 2 || step > 5);
                 }});
  all.push_back({.name = "FrozenWithAGradientLeft",
                 .before_backward =
                     [](Engine&, Net& net, int64_t step) {
                       if (step == 4) net->second->weight.requires_grad_(false);
                     },
                 .set_to_none = false});
  return all;
}

struct Place {
  const char* backend;
  int size;
};

class ArenaTest : public ::testing::TestWithParam<std::tuple<Place, Habit>> {};

TEST_P(ArenaTest, HasTheBitsOfNoArena) {
  const auto& [place, habit] = GetParam();
  WorldOptions options;
  options.size = place.size;
  options.backend = place.backend;
  run_world(options, [&habit = habit](Engine& engine) {
    const std::vector<int64_t> without = train(engine, habit, false);
    EXPECT_EQ(train(engine, habit, true), without);
    EXPECT_NE(without.front(), without.back());
  });
}

std::string name_of_case(const ::testing::TestParamInfo<std::tuple<Place, Habit>>& info) {
  const Place& place = std::get<0>(info.param);
  return std::string(std::get<1>(info.param).name) + "_" + place.backend +
         std::to_string(place.size);
}

INSTANTIATE_TEST_SUITE_P(Habits, ArenaTest,
                         ::testing::Combine(::testing::Values(Place{"local", 2}, Place{"shm", 2},
                                                              Place{"shm", 3}),
                                            ::testing::ValuesIn(habits())),
                         name_of_case);

// Larger than what shm reduces in one step, so that it is done where the gradients lie.
struct Large {
  explicit Large(Engine& engine, bool arena = true, bool sparse_as_dense = false,
                 CompressorPtr compression = nullptr)
      : a(::torch::ones({300, 100}).requires_grad_()), b(::torch::ones({50000}).requires_grad_()) {
    DistributedOptimizerOptions options = on(engine);
    options.gradient_arena = arena;
    options.sparse_as_dense = sparse_as_dense;
    options.compression = std::move(compression);
    optimizer = std::make_unique<DistributedOptimizer>(
        plain_sgd({a, b}, 0.1), NamedParameters{{"a", a}, {"b", b}}, options);
  }
  void step(double factor) {
    optimizer->zero_grad();
    ((a * a).sum() * factor + (b * b * b).sum() * factor).backward();
    optimizer->step();
  }
  Tensor a, b;
  std::unique_ptr<DistributedOptimizer> optimizer;
};

const float* data_of(const Tensor& tensor) { return tensor.const_data_ptr<float>(); }

TEST(Arena, GradientsLieSideBySideAndStayThere) {
  for (const char* backend : {"local", "shm"}) {
    WorldOptions options;
    options.backend = backend;
    run_world(options, [](Engine& engine) {
      Large large(engine);
      for (int i = 0; i < 2; ++i) large.step(0.01 * (engine.rank() + 1));
      const float* const a = data_of(large.a.grad());
      const float* const b = data_of(large.b.grad());
      EXPECT_TRUE(a + large.a.numel() == b || b + large.b.numel() == a);
      const uint64_t before = engine.stats().responses_executed;
      for (int i = 0; i < 3; ++i) large.step(0.01 * (engine.rank() + 1));
      EXPECT_EQ(data_of(large.a.grad()), a);
      EXPECT_EQ(data_of(large.b.grad()), b);
      EXPECT_LE(engine.stats().responses_executed - before, 6U);
      // They outlive the optimizer and the engine.
      const Tensor kept = large.a.grad();
      large.optimizer.reset();
      engine.shutdown();
      EXPECT_TRUE((kept == kept[0][0]).all().item<bool>());
    });
  }
}

// So that a process never has two copies of them.
TEST(Arena, ABucketIsCastAsOneTensor) {
  run_world({2}, [](Engine& engine) {
    Large large(engine, /*arena=*/true, /*sparse_as_dense=*/false, Compression::bf16);
    for (int i = 0; i < 2; ++i) large.step(0.01);
    const auto gap = data_of(large.a.grad()) - data_of(large.b.grad());
    EXPECT_TRUE(gap == large.b.numel() || -gap == large.a.numel());
    const khorus::EngineStats before = engine.stats();
    large.step(0.01);
    const khorus::EngineStats after = engine.stats();
    EXPECT_LE(after.responses_executed - before.responses_executed, 2U);
    const auto elements = static_cast<uint64_t>(large.a.numel() + large.b.numel());
    EXPECT_EQ(after.bytes_reduced - before.bytes_reduced, 2 * elements);
  });
}

TEST(Arena, TheFirstStepLiesThereToo) {
  for (const char* backend : {"local", "shm"}) {
    WorldOptions options;
    options.backend = backend;
    run_world(options, [](Engine& engine) {
      Large large(engine);
      large.step(0.01 * (engine.rank() + 1));
      const float* const first = data_of(large.b.grad());
      EXPECT_EQ(data_of(large.a.grad()), first + large.b.numel());
      for (int i = 0; i < 2; ++i) {
        large.step(0.01 * (engine.rank() + 1));
        EXPECT_EQ(std::min(data_of(large.a.grad()), data_of(large.b.grad())), first);
      }
    });
  }
}

// Without the arena a tensor of an earlier step is nobody else's; so it is with it.
TEST(Arena, KeptReferencesKeepTheirValues) {
  run_world({2}, [](Engine& engine) {
    Large large(engine);
    std::vector<Tensor> kept, copies;
    for (int i = 0; i < 5; ++i) {
      large.step(0.01 * (i + 1));
      kept.push_back(large.a.grad());
      kept.push_back(large.b.grad().view({-1}).narrow(0, 7, 3));
      for (size_t k = kept.size() - 2; k < kept.size(); ++k) copies.push_back(kept[k].clone());
      for (size_t k = 0; k < kept.size(); ++k) EXPECT_TRUE(kept[k].equal(copies[k])) << i;
    }
  });
}

// Then there is none.
TEST(Arena, RanksMayDifferInWhetherTheyWantOne) {
  for (const bool sparse_as_dense : {false, true}) {
    run_world({2}, [&](Engine& engine) {
      Large large(engine, engine.rank() == 0, sparse_as_dense);
      for (int i = 0; i < 3; ++i) {
        const uint64_t before = engine.stats().operations_submitted;
        large.step(0.01);
        // The first step tries to learn, and hears that not all want to.
        const uint64_t operations = i > 0 ? 2 : sparse_as_dense ? 3 : 4;
        EXPECT_EQ(engine.stats().operations_submitted - before, operations);
      }
    });
  }
}

// Gradients that are kept move, and who holds one sees what is done to it.
TEST(Arena, KeptGradientsMoveAndStayTheSameTensors) {
  run_world({2}, [](Engine& engine) {
    Large large(engine);
    large.step(0.01);
    const Tensor held = large.a.grad();
    large.optimizer->zero_grad(false);
    (large.a.sum() + large.b.sum()).backward();
    const float* const a = data_of(held);
    const float* const b = data_of(large.b.grad());
    EXPECT_TRUE(a + large.a.numel() == b || b + large.b.numel() == a);
    large.optimizer->step();
    EXPECT_EQ(data_of(held), a);
    EXPECT_TRUE(held.eq(1).all().item<bool>());
  });
}

// A rank that has no data in the first epoch has not heard what the others agreed on.
TEST(Arena, IsLearntWithARankThatWasNotThereInTheFirstSteps) {
  for (const int64_t groups : {0, 1}) {
    run_world({3}, [groups](Engine& engine) {
      const int rank = engine.rank();
      const Tensor rows = ::torch::zeros({4, 1}).requires_grad_(true);
      const Tensor w = ::torch::zeros({1}).requires_grad_(true);
      DistributedOptimizerOptions options = on(engine);
      options.num_groups = groups;
      DistributedOptimizer optimizer(plain_sgd({rows, w}), {{"rows", rows}, {"w", w}}, options);
      for (int epoch = 0; epoch < 3; ++epoch) {
        const int steps = epoch == 0 ? rank : 3 - rank;
        for (int step = 0; step < steps; ++step) {
          optimizer.zero_grad();
          // Sparse in the first epoch only.
          const Tensor row =
              ::torch::embedding(rows, ::torch::tensor({rank}), -1, false, epoch == 0 || rank > 0);
          const uint64_t before = engine.stats().operations_submitted;
          (row * 3 + w * 6).sum().backward();
          // w, which gradients are sparse, and indices and values of the one that is, which leaves
          // when the ranks have agreed: here before step() asks.
          while (epoch == 0 && rank == 1 && engine.stats().operations_submitted < before + 4) {
            std::this_thread::yield();
          }
          optimizer.step();
        }
        join(&engine);
        CollectiveOptions end;
        end.engine = &engine;
        end.name = "end" + std::to_string(epoch);
        broadcast_parameters({{"rows", rows.detach()}, {"w", w.detach()}}, epoch == 0 ? 2 : 0, end);
        require_identical(engine, {rows, w}, "after an epoch");
      }
      // Each rank's 3 and 6 per step, divided by three.
      EXPECT_NEAR(w[0].item<float>(), -2.0 * (0 + 3 + 3 + 1 + 2 + 2 + 2 + 1 + 1), 1e-5);
      EXPECT_NEAR(rows[2].item<float>(), -(2 + 1 + 1), 1e-5);
      EXPECT_NEAR(rows[0].item<float>(), -(0 + 3 + 3), 1e-5);
    });
  }
}

}  // namespace
}  // namespace khorus::torch::testing
