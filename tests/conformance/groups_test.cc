// Groups at work: operations of all kinds in random order on one communicator, and several
// communicators of one process at the same time, over subsets of the job's ranks that overlap.
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/conformance/matrix.h"
#include "tests/conformance/plugin.h"
#include "tests/conformance/program.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

size_t steps() { return soak() ? 1500 : kThreadSanitizer ? 40 : 120; }

class RandomOrder : public ::testing::TestWithParam<std::tuple<const khorus_backend*, int>> {};

TEST_P(RandomOrder, OfAllOperations) {
  const auto& [backend, size] = GetParam();
  for (const uint64_t seed : {1, 2}) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const std::vector<Step> program = make_program(seed, size, steps());
    World world(*backend, {.size = size});
    world.connect();
    world.each([&](Member& member) {
      const Status status = run_program(member, program);
      EXPECT_TRUE(status.ok()) << status.to_string();
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RandomOrder,
                         ::testing::Combine(::testing::ValuesIn(built_backends()),
                                            ::testing::ValuesIn(world_sizes())),
                         [](const auto& instance) {
                           return std::string(std::get<0>(instance.param)->name) + "_" +
                                  std::to_string(std::get<1>(instance.param));
                         });

class Groups : public ::testing::TestWithParam<const khorus_backend*> {
 protected:
  const khorus_backend& backend() const { return *GetParam(); }

  // Process sets of a job of five ranks, one of them twice.
  std::vector<std::unique_ptr<World>> make_worlds() const {
    std::vector<std::unique_ptr<World>> worlds;
    for (const std::vector<int32_t>& ranks : std::vector<std::vector<int32_t>>{
             {0, 1, 2, 3, 4}, {0, 2}, {1, 2, 3}, {0, 3}, {4}, {0, 2}, {0, 2, 4}}) {
      worlds.push_back(std::make_unique<World>(
          backend(), WorldOptions{.size = static_cast<int>(ranks.size()), .global_ranks = ranks}));
    }
    return worlds;
  }
};

// Each rank of each set is a thread: so the communicators of one rank, and of one process, work at
// the same time.
TEST_P(Groups, OverlappingOnesWorkAtTheSameTime) {
  const auto worlds = make_worlds();
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < worlds.size(); ++i) {
    threads.emplace_back([&world = *worlds[i], seed = 10 + i] {
      const std::vector<Step> program = make_program(seed, world.size(), steps());
      world.connect();
      world.each([&](Member& member) {
        const Status status = run_program(member, program);
        EXPECT_TRUE(status.ok()) << status.to_string();
      });
    });
  }
}

// The set of all ranks is aborted in the middle of its operations; those of the other sets, which
// have every rank in common with it, notice nothing.
TEST_P(Groups, AbortOfOneLeavesTheOthersAlone) {
  const auto worlds = make_worlds();
  for (const auto& world : worlds) world->connect();
  std::atomic<size_t> done{0};  // operations of the others
  std::atomic<bool> aborted{false};
  std::jthread saboteur([&] {
    for (size_t seen = 0; seen < steps(); seen = done.load()) done.wait(seen);
    aborted = true;
    for (int r = 0; r < worlds[0]->size(); ++r) worlds[0]->member(r).abort("set 0 is over");
  });
  std::vector<std::jthread> threads;
  threads.emplace_back([&world = *worlds[0], &aborted] {
    world.each([&](Member& member) {
      Status status;
      for (uint64_t seed = 0; status.ok(); ++seed) {
        status = run_program(member, make_program(seed, world.size(), 50, 1000 * seed));
      }
      EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
      EXPECT_TRUE(aborted) << status.to_string();
    });
  });
  for (size_t i = 1; i < worlds.size(); ++i) {
    threads.emplace_back([&world = *worlds[i], &done, seed = 20 + i] {
      const std::vector<Step> program = make_program(seed, world.size(), steps());
      world.each([&](Member& member) {
        for (const Step& step : program) {
          const Status status = run_step(member, step);
          ASSERT_TRUE(status.ok()) << status.to_string();
          done.fetch_add(1);
          done.notify_all();
        }
      });
    });
  }
  threads.clear();
  for (size_t i = 1; i < worlds.size(); ++i) {
    worlds[i]->each([](Member& member) {
      member.set_sequence(1 << 20);
      const Status status = member.ping();
      EXPECT_TRUE(status.ok()) << status.to_string();
    });
  }
}

// The group's rank 1 is rank 5 of the job, on the second host of the group.
TEST_P(Groups, ErrorsNameTheRankOfTheJob) {
  World world(backend(), {.size = 3,
                          .interface = "lo",
                          .global_ranks = {2, 5, 9},
                          .hosts = {"north", "south", "east"}});
  world.connect();
  std::latch left(1);
  world.each([&](Member& member) {
    if (member.rank() == 1) {
      member.disconnect();
      return left.count_down();
    }
    left.wait();
    if (member.rank() == 2) return;
    const int32_t value = 1;
    int32_t received = 0;
    const Status status = member.sendrecv({DataType::kInt32, 1, 1, 1}, &value, &received);
    EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
    EXPECT_EQ(status.lost_rank(), 5);
    EXPECT_NE(status.message().find("rank 5"), std::string::npos) << status.to_string();
    if (std::string(backend().name) == "gloo") {
      EXPECT_NE(status.message().find("south"), std::string::npos) << status.to_string();
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, Groups, ::testing::ValuesIn(built_backends()),
                         [](const auto& instance) { return std::string(instance.param->name); });

}  // namespace
}  // namespace khorus::conformance
