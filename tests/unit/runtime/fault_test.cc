// Lost peers and stalls: every waiter returns within a second, with the cause.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/net/in_process_channel.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using Clock = std::chrono::steady_clock;

class Fault : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Runtime, Fault, testing::ValuesIn(kBackends),
                         [](const auto& tested) { return tested.param; });

// Waiters in negotiation, and one rank that is severed: at every place of the tree.
TEST_P(Fault, AllWaitersLearnWhoIsLost) {
  constexpr int kSize = 5;
  for (int lost = 0; lost < kSize; ++lost) {
    Ranks ranks(kSize, {GetParam(), false},
                [](EngineOptions* options) { options->config.control_fan_in = 2; });
    std::latch ready(kSize);
    ranks.run([&](Engine& engine) {
      std::vector<float> values(8, 1), other(8, 1);
      ASSERT_TRUE(engine.allreduce_async("x", view_of(values), view_of(values), {})->wait().ok());
      // Rank `lost` never submits "y".
      WorkPtr work = engine.barrier_async("other." + std::to_string(engine.rank()));
      if (engine.rank() != lost) {
        work = engine.allreduce_async("y", view_of(values), view_of(values), {});
      }
      ready.arrive_and_wait();
      const auto begin = Clock::now();
      if (engine.rank() == lost) ranks.world()->sever(lost, "killed by the test");
      std::vector<std::thread> waiters;
      for (int t = 0; t < 3; ++t) {
        waiters.emplace_back([&] {
          const Status status = work->wait();
          EXPECT_EQ(status.code(), StatusCode::kPeerLost) << status.to_string();
          if (engine.rank() == lost) return;
          EXPECT_EQ(status.lost_rank(), lost) << status.to_string();
          EXPECT_THAT(status.message(), HasSubstr("rank " + std::to_string(lost)));
          EXPECT_THAT(status.message(), HasSubstr("killed by the test"));
          EXPECT_THAT(status.message(), HasSubstr("pid"));
        });
      }
      for (std::thread& waiter : waiters) waiter.join();
      EXPECT_LT(Clock::now() - begin, 1s);
      EXPECT_EQ(engine.health().code(), StatusCode::kPeerLost);
      EXPECT_EQ(engine.barrier_async()->wait().code(), StatusCode::kPeerLost);
      engine.shutdown();
      EXPECT_LT(Clock::now() - begin, 2s);
    });
  }
}

// The same while the data plane is busy: the others hang in an operation that all have agreed on.
TEST_P(Fault, BreaksABusyDataPlane) {
  constexpr int kSize = 3;
  for (int lost = 0; lost < kSize; ++lost) {
    Ranks ranks(kSize, {GetParam(), false});
    std::latch running(kSize);
    ranks.run([&](Engine& engine) {
      std::vector<float> values(1 << 18, 1);
      Status status;
      Clock::time_point severed = Clock::time_point::max();
      for (int step = 0; status.ok(); ++step) {
        if (step == 5) running.arrive_and_wait();
        if (step == 5 && engine.rank() == lost) {
          ranks.world()->sever(lost, "killed by the test");
        }
        if (step == 5) severed = Clock::now();
        status =
            engine.allreduce_async("x", view_of(values), view_of(values), with(ReduceOp::kMax))
                ->wait();
      }
      EXPECT_LT(Clock::now() - severed, 1s);
      EXPECT_EQ(status.code(), StatusCode::kPeerLost) << status.to_string();
      if (engine.rank() != lost) {
        EXPECT_EQ(status.lost_rank(), lost) << status.to_string();
      }
    });
  }
}

TEST(FaultOverTcp, ADestroyedWorldIsNotedByTheOthers) {
  Ranks ranks(3, {kBackends.back(), true});
  ranks.run([](Engine& engine) {
    std::vector<float> values(8, 1);
    ASSERT_TRUE(engine.allreduce_async("x", view_of(values), view_of(values), {})->wait().ok());
    if (engine.rank() == 2) return;  // shuts the job down
    const Status status = engine.allreduce_async("y", view_of(values), view_of(values), {})->wait();
    EXPECT_EQ(status.code(), StatusCode::kShutdown) << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr("rank 2"));
  });
}

TEST(Stall, IsExplainedAndCanBeFatal) {
  Ranks ranks(3, {}, [](EngineOptions* options) {
    options->config.stall_warning_s = 0.1;
    options->config.stall_shutdown_s = 0.4;
  });
  ranks.run([](Engine& engine) {
    std::vector<float> values(8, 1);
    ASSERT_TRUE(engine.allreduce_async("first", view_of(values), view_of(values), {})->wait().ok());
    if (engine.rank() == 1) {
      EXPECT_EQ(engine.barrier_async("elsewhere")->wait().code(), StatusCode::kTimeout);
      return;
    }
    const Status status =
        engine.allreduce_async("second", view_of(values), view_of(values), {})->wait();
    EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr("stalled"));
  });
}

TEST(Stall, TheCheckCanBeOff) {
  Ranks ranks(2, {}, [](EngineOptions* options) {
    options->config.stall_warning_s = 0.05;
    options->config.stall_shutdown_s = 0.1;
    options->config.stall_check_disable = true;
  });
  ranks.run([](Engine& engine) {
    if (engine.rank() == 1) std::this_thread::sleep_for(300ms);  // longer than the limit
    EXPECT_TRUE(engine.barrier_async()->wait().ok());
  });
}

}  // namespace
}  // namespace khorus::test
