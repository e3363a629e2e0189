// DistributedOptimizer beyond equivalence: overlap, unused and shared parameters, clipping,
// closures, schedulers, lifetime. Guards are in optimizer_guards_test.cc.
#include "tests/torch/regression.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

TEST(Overlap, AnAllreduceIsSubmittedBeforeBackwardIsOver) {
  run_world({2}, [](Engine& engine) {
    Net net(::torch::kFloat64);
    DistributedOptimizer optimizer(plain_sgd(net->parameters()), net->named_parameters(),
                                   on(engine));
    const auto [x, y] = examples(0, 0, 4, ::torch::kFloat64);
    Tensor hidden = ::torch::tanh(net->first(x));
    const uint64_t before = engine.stats().operations_submitted;
    uint64_t halfway = 0;
    // Runs in the middle of backward: after the gradients of the later layers, before the first's.
    hidden.register_hook(
        [&](const Tensor&) { halfway = engine.stats().operations_submitted - before; });
    ::torch::mse_loss(net->third(::torch::tanh(net->second(hidden))), y).backward();
    EXPECT_EQ(halfway, 4U);  // weights and biases of the second and the third layer
    EXPECT_EQ(engine.stats().operations_submitted - before, 7U);  // and whether all are dense
    optimizer.step();
  });
}

TEST(UnusedParameters, MayDifferByRank) {
  run_world({3}, [](Engine& engine) {
    std::vector<Tensor> w;
    NamedParameters names;
    for (int i = 0; i < 4; ++i) {
      w.push_back(leaf({1.0, 1.0}));
      names.emplace_back("w" + std::to_string(i), w.back());
    }
    DistributedOptimizer optimizer(plain_sgd(w), names, on(engine));
    for (int step = 0; step < 3; ++step) {
      optimizer.zero_grad();
      // Rank r uses w0 and w(r+1); rank 2 uses w0 and w3; in step 1 rank 0 uses nothing at all.
      if (step != 1 || engine.rank() != 0) {
        (w[0] * 3 + w[static_cast<size_t>(engine.rank()) + 1] * 6).sum().backward();
      }
      optimizer.step();
      require_identical(engine, w, "with unused parameters");
    }
    EXPECT_NEAR(w[0][0].item<double>(), 1 - 3 - 2 - 3, 1e-12);  // mean of 3,3,3 then 0,3,3
    EXPECT_NEAR(w[1][0].item<double>(), 1 - 2 - 0 - 2, 1e-12);
    EXPECT_NEAR(w[2][0].item<double>(), 1 - 2 - 2 - 2, 1e-12);
  });
}

TEST(UnusedParameters, FrozenOnesTakeNoPart) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({1.0}), frozen = ::torch::ones({1}, ::torch::kFloat64);
    DistributedOptimizer optimizer(plain_sgd({w, frozen}), {{"w", w}, {"frozen", frozen}},
                                   on(engine));
    (w * frozen).sum().backward();
    optimizer.step();
    EXPECT_FALSE(frozen.grad().defined());
    EXPECT_EQ(frozen.item<double>(), 1);
  });
}

TEST(SharedParameters, AreReducedOnceAfterTheLastUse) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({2.0});
    // Tied under two names, used three times.
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}, {"tied", w}}, on(engine));
    for (const bool first : {true, false}) {
      optimizer.zero_grad();
      const uint64_t before = engine.stats().operations_submitted;
      (w * 1 + w * 2 + w * w).sum().backward();
      optimizer.synchronize();
      // In the first step also which are sparse, and what the arena's buckets are to be.
      EXPECT_EQ(engine.stats().operations_submitted - before, first ? 2 + kLearningOperations : 1);
      EXPECT_EQ(w.grad().item<double>(), 1 + 2 + 4);
    }
  });
}

// Autograd may give two parameters views of one gradient; reducing one must not change the other.
TEST(SharedGradientMemory, IsNotReducedTwice) {
  run_world({2}, [](Engine& engine) {
    const Tensor a = leaf({1, 2, 3, 4}), b = leaf({5, 6, 7, 8});
    auto options = on(engine);
    options.op = ReduceOp::kSum;  // what is summed twice is seen
    DistributedOptimizer optimizer(plain_sgd({a, b}), {{"a", a}, {"b", b}}, options);
    const double factor = engine.rank() == 0 ? 1 : 3;
    const Tensor second = b.view({2, 2}), first = a.view({2, 2});  // backward() goes back in time
    // When the gradient of b is about to be computed, that of a has been reduced.
    second.register_hook([&engine](const Tensor&) {
      ReduceOptions after;
      after.name = "after a";
      after.engine = &engine;
      allreduce(::torch::ones({1}), after);
    });
    ((first + second) * factor).sum().backward();
    optimizer.synchronize();
    EXPECT_TRUE(a.grad().eq(4).all().item<bool>()) << a.grad();
    EXPECT_TRUE(b.grad().eq(4).all().item<bool>()) << b.grad();
    EXPECT_NE(a.grad().data_ptr(), b.grad().data_ptr());
  });
}

TEST(Gradients, MayBeNonContiguous) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = ::torch::arange(6, ::torch::kFloat64).view({2, 3}).t().requires_grad_(true);
    ASSERT_FALSE(w.is_contiguous());
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
    (w * (engine.rank() + 1)).sum().backward();
    optimizer.synchronize();
    EXPECT_TRUE(w.grad().eq(1.5).all().item<bool>());
    optimizer.step();
    EXPECT_EQ(w[0][0].item<double>(), -1.5);
  });
}

TEST(Clipping, BetweenSynchronizeAndStepIsKept) {
  run_world({2}, [](Engine& engine) {
    for (const bool guard : {true, false}) {
      const Tensor w = leaf({0.0, 0.0});
      DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
      // Gradients (0, 8) and (6, 0): the mean is (3, 4), of norm 5.
      (w * ::torch::tensor({engine.rank() * 6.0, 8.0 - engine.rank() * 8.0}, ::torch::kFloat64))
          .sum()
          .backward();
      optimizer.synchronize();
      EXPECT_NEAR(::torch::nn::utils::clip_grad_norm_({w}, 1.0), 5.0, 1e-5);
      if (guard) {
        const auto skip = optimizer.skip_synchronize();
        optimizer.step();
      } else {
        optimizer.step();
      }
      EXPECT_NEAR(w[0].item<double>(), -0.6, 1e-5);
      EXPECT_NEAR(w[1].item<double>(), -0.8, 1e-5);
      optimizer.zero_grad();  // allowed: nothing is under way
    }
  });
}

TEST(SkipSynchronize, UsesLocalGradientsWhenNothingWasSynchronized) {
  run_world({1}, [](Engine& engine) {
    const Tensor w = leaf({1.0});
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
    {
      const auto skip = optimizer.skip_synchronize();
      w.mutable_grad() = ::torch::full({1}, 0.5, ::torch::kFloat64);
      optimizer.step();
    }
    EXPECT_EQ(w.item<double>(), 0.5);
    optimizer.step();  // synchronizes again: with one rank the same gradient
    EXPECT_EQ(w.item<double>(), 0.0);
  });
}

TEST(Step, TwiceInARowKeepsTheRanksEqual) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({1.0});
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
    (w * (engine.rank() + 1)).sum().backward();
    optimizer.step();
    optimizer.step();
    EXPECT_EQ(w.item<double>(), 1 - 1.5 - 1.5);
  });
}

TEST(BackwardPasses, AreSummedAndCanBeChangedBetweenSteps) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({0.0});
    auto options = on(engine);
    options.backward_passes_per_step = 2;
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, options);
    const uint64_t before = engine.stats().operations_submitted;
    (w * (engine.rank() + 1)).sum().backward();
    EXPECT_EQ(engine.stats().operations_submitted, before);  // not yet
    (w * 10).sum().backward();
    EXPECT_EQ(engine.stats().operations_submitted, before + 2);  // it, and whether it is dense
    optimizer.step();
    EXPECT_EQ(w.item<double>(), -11.5);
    optimizer.zero_grad();
    optimizer.set_backward_passes_per_step(1);
    (w * (engine.rank() + 1)).sum().backward();
    optimizer.step();
    EXPECT_EQ(w.item<double>(), -13);
  });
}

TEST(BackwardPasses, AStepBeforeTheLastPassReducesWhatIsThere) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({0.0});
    auto options = on(engine);
    options.backward_passes_per_step = 3;
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, options);
    (w * (engine.rank() + 1)).sum().backward();
    optimizer.step();
    EXPECT_EQ(w.item<double>(), -1.5);
  });
}

TEST(Options, SumAndPredivide) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({0.0}), v = leaf({0.0});
    auto sum = on(engine), predivided = on(engine);
    sum.op = ReduceOp::kSum;
    predivided.gradient_predivide_factor = 2;
    DistributedOptimizer one(plain_sgd({w}), {{"w", w}}, sum);
    DistributedOptimizer two(plain_sgd({v}), {{"v", v}}, predivided);
    (w * (engine.rank() + 1) + v * (engine.rank() + 1)).sum().backward();
    one.step();
    two.step();
    EXPECT_EQ(w.item<double>(), -3);
    EXPECT_EQ(v.item<double>(), -1.5);
  });
}

// For SGD the combined step is the step of the combined gradient. Orthogonal ones add up, equal
// ones are averaged.
TEST(Options, AdasumCombinesTheStepsOfTheRanks) {
  run_world({2}, [](Engine& engine) {
    auto options = on(engine);
    options.op = ReduceOp::kAdasum;
    const Tensor w = leaf({1, 1}), v = leaf({1, 1});
    DistributedOptimizer optimizer(plain_sgd({w, v}), {{"w", w}, {"v", v}}, options);
    for (int step = 1; step <= 2; ++step) {
      optimizer.zero_grad();
      (w[engine.rank()] * 3 + v.sum() * 2).sum().backward();
      optimizer.step();
      EXPECT_TRUE(w.allclose(::torch::full({2}, 1 - 3.0 * step, ::torch::kFloat64))) << w;
      EXPECT_TRUE(v.allclose(::torch::full({2}, 1 - 2.0 * step, ::torch::kFloat64))) << v;
      require_identical(engine, {w, v}, "with adasum");
    }
  });
}

TEST(SeveralOptimizers, WithEqualNamesNeedPrefixes) {
  run_world({2}, [](Engine& engine) {
    Net generator(::torch::kFloat64), critic(::torch::kFloat64);
    auto first = on(engine), second = on(engine);
    first.name = "generator";
    second.name = "critic";
    DistributedOptimizer one(plain_sgd(generator->parameters()), generator->named_parameters(),
                             first);
    DistributedOptimizer two(plain_sgd(critic->parameters()), critic->named_parameters(), second);
    for (int step = 0; step < 3; ++step) {
      one.zero_grad();
      two.zero_grad();
      // One backward through both: their gradients are under way together.
      (loss_on(generator, step, engine.rank() * 4, 4) + loss_on(critic, step, engine.rank() * 4, 4))
          .backward();
      two.step();
      one.step();
    }
    require_identical(engine, generator->parameters(), "of the generator");
    EXPECT_EQ(hash_of(generator->parameters()), hash_of(critic->parameters()));
  });
}

TEST(Scheduler, ChangesTheRateOfTheWrappedOptimizer) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({0.0});
    DistributedOptimizer optimizer(plain_sgd({w}, 1.0), {{"w", w}}, on(engine));
    const Tensor v = leaf({0.0});
    const auto plain = plain_sgd({v}, 1.0);
    ::torch::optim::StepLR ours(optimizer, /*step_size=*/1, /*gamma=*/0.5);
    ::torch::optim::StepLR theirs(*plain, /*step_size=*/1, /*gamma=*/0.5);
    for (int step = 0; step < 4; ++step) {
      optimizer.zero_grad();
      plain->zero_grad();
      (w + v).sum().backward();
      optimizer.step();
      plain->step();
      ours.step();
      theirs.step();
    }
    EXPECT_EQ(w.item<double>(), v.item<double>());
    EXPECT_LT(optimizer.param_groups()[0].options().get_lr(), 0.2);
  });
}

TEST(ParamGroups, CanBeAdded) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({0.0}), late = leaf({0.0});
    DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
    optimizer.add_param_group(::torch::optim::OptimizerParamGroup(
        {late}, std::make_unique<::torch::optim::SGDOptions>(0.5)));
    ((w + late) * (engine.rank() + 1)).sum().backward();
    optimizer.step();
    EXPECT_EQ(w.item<double>(), -1.5);
    EXPECT_EQ(late.item<double>(), -0.75);
    EXPECT_EQ(optimizer.wrapped().param_groups().size(), 2U);
  });
}

TEST(Closure, LbfgsIsTheSameAsOnOneRank) {
  const auto train = [](Net& net, ::torch::optim::Optimizer& optimizer,
                        const std::function<void()>& zero_grad, int64_t first, int64_t count) {
    for (int step = 0; step < 4; ++step) {
      optimizer.step([&] {
        zero_grad();
        const Tensor loss = loss_on(net, 0, first, count);
        loss.backward();
        return loss;
      });
    }
  };
  const auto make = [](Net& net) {
    return std::make_unique<::torch::optim::LBFGS>(
        net->parameters(),
        ::torch::optim::LBFGSOptions(1).max_iter(5).line_search_fn("strong_wolfe"));
  };
  Net alone(::torch::kFloat64);
  const auto reference = make(alone);
  train(
      alone, *reference, [&] { reference->zero_grad(); }, 0, 8);
  run_world({2}, [&](Engine& engine) {
    Net net(::torch::kFloat64);
    DistributedOptimizer optimizer(make(net), net->named_parameters(), on(engine));
    train(
        net, optimizer, [&] { optimizer.zero_grad(); }, engine.rank() * 4, 4);
    require_identical(engine, net->parameters(), "after LBFGS");
    EXPECT_LE(largest_difference(net->parameters(), alone->parameters()), 1e-7);
  });
}

TEST(Lifetime, AnOptimizerMayBeDestroyedWhileWorksAreUnderWay) {
  run_world({2}, [](Engine& engine) {
    const int rank = engine.rank();
    CollectiveOptions options;
    options.engine = &engine;
    auto net = std::make_optional<Net>(::torch::kFloat64);
    auto optimizer = std::make_unique<DistributedOptimizer>(plain_sgd((*net)->parameters()),
                                                            (*net)->named_parameters(), on(engine));
    // The first step is reduced one by one, the second in the arena.
    for (int step = 0; step < 2; ++step) {
      loss_on(*net, step, 4 * rank, 4).backward();
      optimizer->step();
      optimizer->zero_grad();
    }
    options.name = "go";
    if (rank == 0) {
      loss_on(*net, 2, 0, 4).backward();
      optimizer.reset();
      Net kept = *std::exchange(net, std::nullopt);
      // Gradients are under way or gone; rank 1 has submitted nothing yet.
      for (const Tensor& parameter : kept->parameters()) parameter.mutable_grad().reset();
      loss_on(kept, 2, 0, 4).backward();  // no hook is left that would submit
      barrier(options);
    } else {
      barrier(options);
      loss_on(*net, 2, 4, 4).backward();
      optimizer->step();
    }
    options.name = "end";
    barrier(options);
  });
}

class CountingHook : public ::torch::autograd::PostAccumulateGradHook {
 public:
  explicit CountingHook(int& calls) : calls_(calls) {}
  void operator()(const Tensor&) override { ++calls_; }

 private:
  int& calls_;
};

TEST(Lifetime, AHookThatWasThereBeforeIsCalledAndStays) {
  run_world({2}, [](Engine& engine) {
    int calls = 0;
    const Tensor w = leaf({0.0});
    ::torch::autograd::impl::set_post_acc_grad_hooks(w, std::make_unique<CountingHook>(calls));
    {
      DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
      w.sum().backward();
      EXPECT_EQ(calls, 1);
      optimizer.step();
    }
    w.sum().backward();
    EXPECT_EQ(calls, 2);
  });
}

TEST(Lifetime, TheNextOptimizerOfAModelTakesOver) {
  run_world({2}, [](Engine& engine) {
    const Tensor w = leaf({0.0});
    for (int round = 0; round < 3; ++round) {
      DistributedOptimizer optimizer(plain_sgd({w}), {{"w", w}}, on(engine));
      (w * (engine.rank() + 1)).sum().backward();
      optimizer.step();
      optimizer.zero_grad();
    }
    EXPECT_EQ(w.item<double>(), -4.5);
  });
}

}  // namespace
}  // namespace khorus::torch::testing
