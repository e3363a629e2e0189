// A forked child (a data-loader worker) may live; calling Khorus there is an error, not a hang.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "khorus/khorus.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

// Runs `check` in a forked child; true if it returned true there within 20 s.
template <class Check>
bool in_forked_child(Check&& check) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    _exit(check() ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool says_forked(const Status& status) {
  return status.code() == StatusCode::kUnavailable &&
         status.message().find("forked child (pid " + std::to_string(getpid()) + ")") !=
             std::string::npos;
}

class Fork : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(Runtime, Fork, testing::ValuesIn(transports()),
                         testing::PrintToStringParamName());

TEST_P(Fork, EveryMethodRefuses) {
  Ranks ranks(2, GetParam());
  std::vector<std::unique_ptr<Engine>> engines(2);
  ranks.run_bare([&](int rank) {
    auto engine = Engine::create(ranks.options(rank));
    ASSERT_TRUE(engine.ok());
    engines[static_cast<size_t>(rank)] = std::move(*engine);
  });
  std::vector<float> values(4, 1);
  const WorkPtr pending =
      engines[0]->allreduce_async("x", view_of(values), view_of(values), with(ReduceOp::kSum));
  EXPECT_TRUE(in_forked_child([&] {
    Engine& engine = *engines[0];
    const TensorView view = view_of(values);
    const std::vector<NamedTensor> members(1, NamedTensor{"y", view, view});
    bool good = says_forked(engine.allreduce_async("x", view, view, {})->wait()) &&
                says_forked(engine.allgather_async("x", view)->wait()) &&
                says_forked(engine.broadcast_async("x", view, view, 0)->wait()) &&
                says_forked(engine.grouped_allreduce_async("x", members, {})[0]->wait()) &&
                says_forked(engine.barrier_async()->wait()) && says_forked(engine.health()) &&
                says_forked(engine.start_timeline("/nowhere")) &&
                says_forked(engine.stop_timeline()) && engine.rank() == 0;
    good = good && pending->wait().code() == StatusCode::kUnavailable;
    good = good && engine.stats().operations_done == 0;
    engine.shutdown();
    engines.clear();  // must neither block nor say anything to the other ranks
    return good;
  }));
  // The parent goes on.
  std::vector<float> other(4, 2);
  EXPECT_TRUE(engines[1]
                  ->allreduce_async("x", view_of(other), view_of(other), with(ReduceOp::kSum))
                  ->wait()
                  .ok());
  EXPECT_TRUE(pending->wait().ok());
  EXPECT_EQ(values[0], 3);
}

TEST(ForkOfTheDefaultEngine, Refuses) {
  EngineOptions options;
  options.config.log_level = LogLevel::kFatal;
  init(options);
  EXPECT_TRUE(in_forked_child([&] {
    try {
      init(options);
      return false;
    } catch (const Error& error) {
      if (!says_forked(error.status())) return false;
    }
    shutdown();
    return true;
  }));
  shutdown();
}

}  // namespace
}  // namespace khorus::test
