// How gradients travel: compressed, sparse, in groups.
#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

using ::testing::HasSubstr;

ReduceOptions reduction(Engine& engine, const std::string& name, CompressorPtr compression,
                        ReduceOp op = ReduceOp::kSum) {
  ReduceOptions options;
  options.name = name;
  options.op = op;
  options.compression = std::move(compression);
  options.engine = &engine;
  return options;
}

// ---- compression

TEST(Compression, CastsReducesAndCastsBack) {
  run_world({3}, [](Engine& engine) {
    for (const auto& [format, dtype] : {std::pair(Compression::fp16, ::torch::kFloat16),
                                        std::pair(Compression::bf16, ::torch::kBFloat16)}) {
      const auto of_rank = [](int rank) {
        return ::torch::sin(::torch::arange(100, ::torch::kFloat32) + rank * 0.7);
      };
      const Tensor mine = of_rank(engine.rank());
      // Accumulated in float32, rounded once.
      const Tensor expected =
          (of_rank(0).to(dtype).to(::torch::kFloat32) + of_rank(1).to(dtype).to(::torch::kFloat32) +
           of_rank(2).to(dtype).to(::torch::kFloat32))
              .to(dtype)
              .to(::torch::kFloat32);
      const Tensor sum = allreduce(mine, reduction(engine, "sum", format));
      EXPECT_EQ(sum.scalar_type(), ::torch::kFloat32);
      EXPECT_TRUE(sum.equal(expected));
      EXPECT_TRUE(mine.equal(of_rank(engine.rank())));
      EXPECT_TRUE(allreduce_(mine, reduction(engine, "in place", format)).is_same(mine));
      EXPECT_TRUE(mine.equal(expected));
      // Half the bytes travel.
      const uint64_t before = engine.stats().bytes_reduced;
      allreduce(mine, reduction(engine, "bytes", format));
      EXPECT_EQ(engine.stats().bytes_reduced - before, 200U);
    }
  });
}

TEST(Compression, LeavesOtherTensorsAsTheyAre) {
  run_world({2}, [](Engine& engine) {
    const Tensor whole = ::torch::full({3}, 100'000 + engine.rank(), ::torch::kInt32);
    EXPECT_TRUE(allreduce(whole, reduction(engine, "int", Compression::fp16))
                    .eq(200'001)
                    .all()
                    .item<bool>());
    EXPECT_TRUE(whole.eq(100'000 + engine.rank()).all().item<bool>());
    const Tensor half = ::torch::ones({3}, ::torch::kBFloat16);
    EXPECT_EQ(allreduce(half, reduction(engine, "half", Compression::fp16)).scalar_type(),
              ::torch::kBFloat16);
    const Tensor column = ::torch::ones({3, 2}).select(1, 0);
    allreduce_(column, reduction(engine, "column", Compression::bf16));
    EXPECT_TRUE(column.eq(2).all().item<bool>());
    const auto group =
        grouped_allreduce({column, whole.clone()}, reduction(engine, "group", Compression::fp16));
    EXPECT_TRUE(group[0].eq(4).all().item<bool>());
    EXPECT_EQ(group[1].scalar_type(), ::torch::kInt32);
  });
}

// A compressor of a user's own.
class Halves : public Compressor {
 public:
  Compressed compress(const Tensor& tensor) const override { return {tensor / 2, 2.0}; }
  Tensor decompress(const Tensor& tensor, const std::any& context) const override {
    return tensor * std::any_cast<double>(context);
  }
};

TEST(Compression, TakesOnesOwn) {
  run_world({2}, [](Engine& engine) {
    const auto halves = std::make_shared<Halves>();
    EXPECT_TRUE(
        allreduce(::torch::ones({4}), reduction(engine, "own", halves)).eq(2).all().item<bool>());
  });
}

TEST(Compression, TheOptimizerTrainsAlmostAsWithout) {
  Equivalence config;
  config.dtype = ::torch::kFloat32;
  config.steps = 20;
  const std::vector<Tensor> alone = train_alone(config, config.batch * 3);
  for (const auto& compression : {Compression::fp16, Compression::bf16}) {
    config.change = [&](DistributedOptimizerOptions& o) { o.compression = compression; };
    run_world({3}, [&](Engine& engine) {
      const double difference = largest_difference(train_together(engine, config), alone);
      EXPECT_LE(difference, compression == Compression::fp16 ? 2e-3 : 2e-2);
      EXPECT_GT(difference, 1e-6);  // it was compressed
    });
  }
}

// ---- groups

TEST(Groups, TrainLikeOneRank) {
  Equivalence config;
  config.steps = 10;
  const std::vector<Tensor> alone = train_alone(config, config.batch * 2);
  for (const int64_t count : {1, 2, 4, 100}) {
    config.change = [count](DistributedOptimizerOptions& o) { o.num_groups = count; };
    run_world({2}, [&](Engine& engine) {
      EXPECT_LE(largest_difference(train_together(engine, config), alone), 1e-9) << count;
    });
  }
}

TEST(Groups, AreSubmittedWhenTheLastMemberIsThere) {
  run_world({2}, [](Engine& engine) {
    const Tensor a = leaf({1}), b = leaf({1}), c = leaf({1});
    auto options = on(engine);
    options.groups = {{a, b}};
    DistributedOptimizer optimizer(plain_sgd({a, b, c}), {{"a", a}, {"b", b}, {"c", c}}, options);
    const auto submitted = [&engine] { return engine.stats().operations_submitted; };
    uint64_t before = submitted();
    a.sum().backward();
    EXPECT_EQ(submitted(), before);
    c.sum().backward();
    EXPECT_EQ(submitted(), before + 1);
    b.sum().backward();
    EXPECT_EQ(submitted(), before + 4);  // and whether all are dense
    optimizer.step();
    for (const Tensor& w : {a, b, c}) EXPECT_EQ(w.item<double>(), 0);
    // A member that a rank does not use joins at step().
    optimizer.zero_grad();
    (engine.rank() == 0 ? a : b).sum().backward();
    optimizer.step();
    EXPECT_EQ(a.item<double>(), -0.5);
    EXPECT_EQ(b.item<double>(), -0.5);
  });
}

TEST(Groups, WrongOnesAreExplained) {
  run_world({1}, [](Engine& engine) {
    const Tensor a = leaf({1}), b = leaf({1});
    const auto error_of = [&](const std::function<void(DistributedOptimizerOptions&)>& change) {
      auto options = on(engine);
      change(options);
      try {
        DistributedOptimizer(plain_sgd({a, b}), {{"a", a}, {"b", b}}, options);
      } catch (const Error& error) {
        return std::string(error.what());
      }
      return std::string("nothing was thrown");
    };
    EXPECT_THAT(error_of([](auto& o) { o.num_groups = -1; }), HasSubstr("num_groups is -1"));
    EXPECT_THAT(error_of([&](auto& o) {
                  o.num_groups = 1;
                  o.groups = {{a}};
                }),
                HasSubstr("both given"));
    EXPECT_THAT(error_of([&](auto& o) {
                  o.groups = {{a}, {b, a}};
                }),
                HasSubstr("\"a\" is in two groups"));
    EXPECT_THAT(error_of([](auto& o) {
                  o.groups = {{leaf({1, 2})}};
                }),
                HasSubstr("shape [2] in `groups` does not belong"));
  });
}

// ---- sparse gradients

Tensor sparse_rows(const std::vector<int64_t>& rows, double value) {
  const auto count = static_cast<int64_t>(rows.size());
  return ::torch::sparse_coo_tensor(::torch::tensor(rows, ::torch::kInt64).view({1, count}),
                                    ::torch::full({count, 2}, value, ::torch::kFloat64), {5, 2});
}

TEST(SparseAllreduce, IsTheDenseOne) {
  run_world({3}, [](Engine& engine) {
    // Rank 0 gives row 1 twice, rank 1 nothing, rank 2 rows 1 and 4.
    const Tensor mine = engine.rank() == 0   ? sparse_rows({1, 1}, 1)
                        : engine.rank() == 1 ? sparse_rows({}, 0)
                                             : sparse_rows({4, 1}, 5);
    const Tensor expected = ::torch::zeros({5, 2}, ::torch::kFloat64);
    expected[1] += 7;
    expected[4] += 5;
    const Tensor sum = sparse_allreduce(mine, reduction(engine, "s", Compression::none));
    EXPECT_TRUE(sum.is_sparse() && sum.is_coalesced());
    EXPECT_TRUE(sum.to_dense().equal(expected));
    auto options = reduction(engine, "", Compression::fp16, ReduceOp::kAverage);
    options.prescale_factor = 0.5;
    options.postscale_factor = 4;
    EXPECT_TRUE(sparse_allreduce(mine, options).to_dense().allclose(expected * 2 / 3));
  });
}

TEST(SparseAllreduce, RefusesWhatItDoesNotKnow) {
  run_world({1}, [](Engine& engine) {
    const auto error_of = [&](const Tensor& tensor, ReduceOp op) {
      try {
        sparse_allreduce(tensor, reduction(engine, "s", Compression::none, op));
      } catch (const Error& error) {
        return std::string(error.what());
      }
      return std::string("nothing was thrown");
    };
    EXPECT_THAT(error_of(::torch::ones({2}), ReduceOp::kSum), HasSubstr("not sparse COO"));
    EXPECT_THAT(error_of(sparse_rows({1}, 1), ReduceOp::kMin), HasSubstr("not min"));
    EXPECT_THAT(error_of(sparse_rows({1}, 1).to(::torch::kInt64), ReduceOp::kSum),
                HasSubstr("floating types"));
  });
}

// An embedding of which every rank uses other rows, and a layer on top.
struct WordsImpl : ::torch::nn::Module {
  explicit WordsImpl(bool sparse)
      : words(register_module(
            "words", ::torch::nn::Embedding(::torch::nn::EmbeddingOptions(7, 3).sparse(sparse)))),
        top(register_module("top", ::torch::nn::Linear(3, 1))) {
    const ::torch::NoGradGuard no_grad;
    for (Tensor& p : parameters()) {
      p.copy_(::torch::cos(::torch::arange(p.numel(), ::torch::kFloat64) + 1).view(p.sizes()));
    }
    to(::torch::kFloat64);
  }
  Tensor loss(const std::vector<int64_t>& tokens) {
    return top(words(::torch::tensor(tokens, ::torch::kInt64))).square().mean();
  }
  ::torch::nn::Embedding words;
  ::torch::nn::Linear top;
};

using ChangeOptions = std::function<void(DistributedOptimizerOptions&)>;

std::vector<Tensor> train_words(Engine& engine, bool sparse, const ChangeOptions& change) {
  WordsImpl model(sparse);
  auto options = on(engine);
  change(options);
  DistributedOptimizer optimizer(std::make_unique<::torch::optim::Adagrad>(
                                     model.parameters(), ::torch::optim::AdagradOptions(0.1)),
                                 model.named_parameters(), options);
  for (int64_t step = 0; step < 6; ++step) {
    optimizer.zero_grad();
    // In steps 0 and 3 the last rank uses nothing at all.
    if (step % 3 != 0 || engine.rank() + 1 < engine.size()) {
      model.loss({step % 7, engine.rank(), engine.rank()}).backward();
    }
    optimizer.step();
    require_identical(engine, model.parameters(), "with sparse gradients");
  }
  return model.parameters();
}

TEST(SparseGradients, TrainAsDenseOnes) {
  const std::pair<const char*, ChangeOptions> variants[] = {
      {"plain", [](DistributedOptimizerOptions&) {}},
      {"as dense", [](DistributedOptimizerOptions& o) { o.sparse_as_dense = true; }},
      {"in groups", [](DistributedOptimizerOptions& o) { o.num_groups = 1; }},
      {"predivided", [](DistributedOptimizerOptions& o) { o.gradient_predivide_factor = 2; }},
      {"two passes", [](DistributedOptimizerOptions& o) { o.backward_passes_per_step = 2; }},
  };
  for (const int size : {1, 2, 3}) {
    for (const auto& [name, change] : variants) {
      run_world({size}, [&](Engine& engine) {
        const auto dense = train_words(engine, false, [](DistributedOptimizerOptions&) {});
        const auto sparse = train_words(engine, true, change);
        EXPECT_LE(largest_difference(sparse, dense), 1e-9) << name << " on " << size;
      });
    }
  }
}

TEST(SparseGradients, StaySparseAndAreAgreedOnOnce) {
  run_world({2}, [](Engine& engine) {
    WordsImpl model(true);
    DistributedOptimizer optimizer(plain_sgd(model.parameters()), model.named_parameters(),
                                   on(engine));
    for (int step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      const uint64_t before = engine.stats().operations_submitted;
      model.loss({1, 2 + engine.rank()}).backward();
      optimizer.synchronize();
      // Indices, values, weight, bias, and once the kinds and what the buckets are to be; from then
      // on weight and bias are one bucket.
      EXPECT_EQ(engine.stats().operations_submitted - before,
                step == 0 ? 5 + kLearningOperations : 3);
      const Tensor gradient = model.words->weight.grad();
      EXPECT_TRUE(gradient.is_sparse());
      EXPECT_EQ(gradient._nnz(), 3);
      optimizer.step();
    }
  });
}

// From the first step on, in which the ranks agree on kinds and learn their buckets.
TEST(SparseGradients, OfTwoOptimizersThatRanksStepInDifferentOrders) {
  run_world({2}, [](Engine& engine) {
    std::vector<std::unique_ptr<WordsImpl>> models;
    std::vector<std::unique_ptr<DistributedOptimizer>> optimizers;
    for (const char* name : {"first", "second"}) {
      WordsImpl& model = *models.emplace_back(std::make_unique<WordsImpl>(true));
      auto options = on(engine);
      options.name = name;
      optimizers.push_back(std::make_unique<DistributedOptimizer>(
          plain_sgd(model.parameters()), model.named_parameters(), options));
    }
    for (int step = 0; step < 3; ++step) {
      const std::vector<int64_t> tokens = {step, 2 + engine.rank()};
      (models[0]->loss(tokens) + models[1]->loss(tokens)).backward();
      for (const int turn : {0, 1}) {
        DistributedOptimizer& optimizer = *optimizers[(turn + engine.rank() + step) % 2];
        optimizer.step();
        optimizer.zero_grad();
      }
      EXPECT_TRUE(hash_of(models[0]->parameters()) == hash_of(models[1]->parameters()));
      require_identical(engine, models[0]->parameters(), "of two optimizers");
    }
  });
}

// They may be about to leave then, on a thread of libtorch's.
TEST(SparseGradients, OfAnOptimizerThatIsGoneAfterBackward) {
  for (int round = 0; round < 20; ++round) {
    run_world({2}, [](Engine& engine) {
      WordsImpl model(true);
      const DistributedOptimizer optimizer(plain_sgd(model.parameters()), model.named_parameters(),
                                           on(engine));
      model.loss({1, 2 + engine.rank()}).backward();
    });
  }
}

// One rank's gradient is dense, another's sparse: both go dense, also later.
TEST(SparseGradients, MixedWithDenseOnesBecomeDense) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = ::torch::zeros({5, 2}, ::torch::kFloat64).requires_grad_(true);
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
    for (int step = 0; step < 2; ++step) {
      optimizer.zero_grad();
      const bool sparse = engine.rank() == step;
      const Tensor rows = ::torch::embedding(w, ::torch::tensor({1, 3}), -1, false, sparse);
      rows.sum().backward();
      optimizer.step();
      EXPECT_FALSE(w.grad().is_sparse());
    }
    EXPECT_TRUE(w[1].eq(-2).all().item<bool>());
    EXPECT_TRUE(w[0].eq(0).all().item<bool>());
  });
}

// What was agreed to be sparse stays so when a rank's gradient is dense.
TEST(SparseGradients, ADenseOneAmongThemIsConverted) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = ::torch::zeros({5, 2}, ::torch::kFloat64).requires_grad_(true);
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
    for (int step = 0; step < 2; ++step) {
      optimizer.zero_grad();
      const bool sparse = step == 0 || engine.rank() == 0;
      ::torch::embedding(w, ::torch::tensor({1, 3}), -1, false, sparse).sum().backward();
      optimizer.step();
      EXPECT_TRUE(w.grad().is_sparse());
    }
    EXPECT_TRUE(w[1].eq(-2).all().item<bool>());
  });
}

}  // namespace
}  // namespace khorus::torch::testing
