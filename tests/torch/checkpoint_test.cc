// Checkpoints: a run that is stopped and resumed is the run that was not, for every optimizer.
#include "tests/torch/optimizers.h"
#include "tests/torch/regression.h"
#include "tests/torch/temporary_folder.h"
#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

using ::testing::HasSubstr;

CheckpointOptions checkpoint_on(Engine& engine) {
  CheckpointOptions options;
  options.engine = &engine;
  return options;
}

// Steps whose gradients are reduced over the ranks.
void step_together(Engine& engine, Net& net, DistributedOptimizer& optimizer, int64_t from,
                   int64_t to) {
  for (int64_t step = from; step < to; ++step) {
    optimizer.step([&] {
      const ::torch::AutoGradMode grad(true);
      optimizer.zero_grad();
      const Tensor loss = loss_on(net, step, engine.rank() * 4, 4);
      loss.backward();
      return loss;
    });
  }
}

std::unique_ptr<DistributedOptimizer> wrap(Engine& engine, const OptimizerKind& kind, Net& net,
                                           double rate = 0.02) {
  return std::make_unique<DistributedOptimizer>(kind.make(net->parameters(), rate),
                                                net->named_parameters(), on(engine));
}

class CheckpointTest : public ::testing::TestWithParam<OptimizerKind> {};

TEST_P(CheckpointTest, AResumedRunIsTheSameRun) {
  const TemporaryFolder folder;
  const std::string path = folder / "checkpoint.safetensors";
  run_world({2}, [&](Engine& engine) {
    Net net(::torch::kFloat64);
    auto optimizer = wrap(engine, GetParam(), net);
    step_together(engine, net, *optimizer, 0, 4);
    save_checkpoint(path, {*net, *optimizer, 4, {{"seed", "1"}}}, checkpoint_on(engine));
    step_together(engine, net, *optimizer, 4, 8);

    Net resumed(::torch::kFloat64);
    auto fresh = wrap(engine, GetParam(), resumed, 0.5);
    step_together(engine, resumed, *fresh, 0, 1);  // state that must go
    TrainingState state{*resumed, *fresh, 0, {{"seed", "1"}}};
    load_checkpoint(path, state, checkpoint_on(engine));
    EXPECT_EQ(state.step, 4);
    EXPECT_EQ(fresh->param_groups()[0].options().get_lr(), 0.02);
    step_together(engine, resumed, *fresh, 4, 8);
    EXPECT_EQ(hash_of(resumed->parameters()), hash_of(net->parameters()));
  });
  EXPECT_EQ(folder.files(), 1U);
}

INSTANTIATE_TEST_SUITE_P(Kinds, CheckpointTest, ::testing::ValuesIn(optimizer_kinds()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Checkpoint, HoldsReadableNamesAndEveryRanksGenerator) {
  const TemporaryFolder folder;
  const std::string path = folder / "c";
  run_world({1}, [&](Engine& engine) {
    Net net(::torch::kFloat32);
    ::torch::optim::AdamW optimizer(net->parameters(), ::torch::optim::AdamWOptions(0.1));
    loss_on(net, 0, 0, 4).backward();
    optimizer.step();
    ::torch::manual_seed(3);
    ::torch::rand({5});
    save_checkpoint(path, {*net, optimizer, 1}, checkpoint_on(engine));
    const Tensor expected = ::torch::rand({5});
    TrainingState state{*net, optimizer};
    load_checkpoint(path, state, checkpoint_on(engine));
    EXPECT_TRUE(::torch::rand({5}).equal(expected));
  });
  const Safetensors content = load_safetensors(path);
  EXPECT_EQ(content.metadata.at("khorus.step"), "1");
  EXPECT_EQ(content.metadata.at("format"), "pt");
  for (const char* name : {"model.first.weight", "optimizer.first.weight.exp_avg", "rng.0"}) {
    EXPECT_TRUE(content.tensors.contains(name)) << name;
  }
  Net other(::torch::kFloat32);
  load_model(*other, content);
  EXPECT_TRUE(other->third->bias.equal(content.tensors.at("model.third.bias")));
}

// What goes wrong on rank 0 is an error on every rank, and the engine stays good.
TEST(Checkpoint, ErrorsReachEveryRankAndChangeNothing) {
  const TemporaryFolder folder;
  run_world({2}, [&](Engine& engine) {
    Net net(::torch::kFloat64);
    auto optimizer = wrap(engine, optimizer_kinds()[0], net);
    const auto before = hash_of(net->parameters());
    const auto error_of = [&](const std::function<void()>& action) -> std::string {
      try {
        action();
      } catch (const Error& error) {
        return error.what();
      }
      return "nothing was thrown";
    };
    const auto load = [&](const std::string& name, std::map<std::string, std::string> notes) {
      TrainingState state{*net, *optimizer, 0, std::move(notes)};
      return error_of([&] { load_checkpoint(folder / name, state, checkpoint_on(engine)); });
    };
    EXPECT_THAT(load("missing", {}), HasSubstr(engine.rank() == 0 ? "No such file" : "rank 0"));
    EXPECT_THAT(error_of([&] {
                  save_checkpoint(folder / "no/folder", {*net, *optimizer}, checkpoint_on(engine));
                }),
                HasSubstr("write"));
    save_checkpoint(folder / "good", {*net, *optimizer, 7, {{"seed", "1"}}}, checkpoint_on(engine));
    EXPECT_THAT(load("good", {{"seed", "2"}}),
                HasSubstr("it has \"seed 1\" where this run has \"seed 2\""));
    EXPECT_THAT(load("good", {{"text", "2"}}), HasSubstr("no \"note.text\""));

    const auto change = [&](const std::string& name,
                            const std::function<void(Safetensors&)>& edit) {
      CollectiveOptions options;
      options.name = "changed";
      options.engine = &engine;
      if (engine.rank() == 0) {
        Safetensors content = load_safetensors(folder / "good");
        edit(content);
        save_safetensors(folder / name, content);
      }
      barrier(options);
      return load(name, {});
    };
    EXPECT_THAT(change("a", [](Safetensors& c) { c.tensors.erase("model.first.bias"); }),
                HasSubstr("no \"model.first.bias\""));
    EXPECT_THAT(
        change("b",
               [](Safetensors& c) { c.tensors["rng.0"] = c.tensors["rng.1"] = ::torch::ones(3); }),
        HasSubstr("random number generator"));
    EXPECT_THAT(change("c", [](Safetensors& c) { c.metadata["khorus.step"] = "-1"; }),
                HasSubstr("its step is \"-1\""));
    EXPECT_THAT(change("d", [](Safetensors& c) { c.metadata["khorus.optimizer"] = "{\"a\":1}"; }),
                HasSubstr("of another kind"));
    EXPECT_THAT(
        change("e",
               [](Safetensors& c) { c.metadata["khorus.optimizer"] = std::string(100'000, '['); }),
        HasSubstr("nested too deeply"));
    EXPECT_EQ(hash_of(net->parameters()), before);
    EXPECT_EQ(load("good", {{"seed", "1"}}), "nothing was thrown");
  });
}

TEST(Checkpoint, AnotherKindOfOptimizerIsRefused) {
  const TemporaryFolder folder;
  run_world({1}, [&](Engine& engine) {
    Net net(::torch::kFloat64);
    for (const OptimizerKind& from : optimizer_kinds()) {
      auto saved = wrap(engine, from, net);
      step_together(engine, net, *saved, 0, 2);
      save_checkpoint(folder / "c", {*net, *saved, 2}, checkpoint_on(engine));
      for (const OptimizerKind& to : optimizer_kinds()) {
        auto loaded = wrap(engine, to, net, 0.25);
        TrainingState state{*net, *loaded};
        try {
          load_checkpoint(folder / "c", state, checkpoint_on(engine));
          // Kinds whose files have the same words cannot be told apart.
          EXPECT_EQ(std::string(from.family), to.family) << from.name << " into " << to.name;
        } catch (const Error& error) {
          EXPECT_NE(std::string(from.family), to.family) << error.what();
          EXPECT_EQ(loaded->param_groups()[0].options().get_lr(), 0.25);
        }
      }
    }
  });
}

}  // namespace
}  // namespace khorus::torch::testing
