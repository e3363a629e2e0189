// Beginning and end: shutdown never hangs and loses no waiter, engines can be made again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

class Life : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(Runtime, Life, testing::ValuesIn(transports()),
                         testing::PrintToStringParamName());

TEST_P(Life, InitAndShutdownFollowEachOther) {
  Ranks ranks(3, GetParam());
  ranks.run_bare([&](int rank) {
    for (int generation = 0; generation < 4; ++generation) {
      auto engine = Engine::create(ranks.options(rank));
      ASSERT_TRUE(engine.ok()) << engine.status().to_string();
      std::vector<float> values(5, 1);
      ASSERT_TRUE((*engine)
                      ->allreduce_async("x", view_of(values), view_of(values), with(ReduceOp::kSum))
                      ->wait()
                      .ok());
      EXPECT_EQ(values[0], 3);
      if (generation % 2 == 0) (*engine)->shutdown();  // else its destructor
    }
  });
}

// What all ranks have submitted is run; everything else is done with Shutdown, on every rank.
TEST_P(Life, ShutdownWhileOperationsArePending) {
  Ranks ranks(2, GetParam());
  std::latch pending(2);
  ranks.run([&](Engine& engine) {
    std::vector<float> shared(100, 1), lonely(4, 1);
    const WorkPtr both =
        engine.allreduce_async("both", view_of(shared), view_of(shared), with(ReduceOp::kSum));
    ASSERT_TRUE(both->wait().ok());
    const WorkPtr alone = engine.allreduce_async(engine.rank() == 0 ? "zero" : "one",
                                                 view_of(lonely), view_of(lonely), {});
    pending.arrive_and_wait();
    std::thread waiter([&] { EXPECT_EQ(alone->wait().code(), StatusCode::kShutdown); });
    if (engine.rank() == 0) {
      std::thread other([&] { engine.shutdown(); });
      engine.shutdown();
      other.join();
    }
    waiter.join();
    EXPECT_THAT(alone->wait().message(), HasSubstr("rank 0"));
    const Status late = engine.barrier_async()->wait();
    EXPECT_EQ(late.code(), StatusCode::kShutdown) << late.to_string();
    EXPECT_EQ(engine.health().code(), StatusCode::kShutdown);
    engine.shutdown();
    EXPECT_EQ(engine.barrier_async()->wait().code(), StatusCode::kShutdown);
  });
}

TEST_P(Life, ThreadsSubmitWhileAnotherShutsDown) {
  for (int round = 0; round < 5 * soak_factor(20); ++round) {
    Ranks ranks(2, GetParam());
    ranks.run([&](Engine& engine) {
      std::atomic<int> over{0};
      std::vector<std::thread> threads;
      for (int t = 0; t < 3; ++t) {
        threads.emplace_back([&, t] {
          std::vector<float> values(16, 1);
          while (true) {
            const Status status = engine
                                      .allreduce_async("t" + std::to_string(t), view_of(values),
                                                       view_of(values), with(ReduceOp::kMax))
                                      ->wait();
            if (status.ok()) continue;
            EXPECT_EQ(status.code(), StatusCode::kShutdown) << status.to_string();
            over.fetch_add(1);
            return;
          }
        });
      }
      std::vector<float> values(16, 1);
      for (int i = 0; i < 20; ++i) {
        static_cast<void>(
            engine.allreduce_async("main", view_of(values), view_of(values), {})->wait());
      }
      if (engine.rank() == round % 2) engine.shutdown();
      for (std::thread& thread : threads) thread.join();
      EXPECT_EQ(over.load(), 3);
    });
  }
}

TEST_P(Life, WorksOutliveTheEngine) {
  Ranks ranks(2, GetParam());
  ranks.run_bare([&](int rank) {
    std::vector<float> values(4, 2);
    std::vector<WorkPtr> works;
    {
      auto engine = Engine::create(ranks.options(rank));
      ASSERT_TRUE(engine.ok());
      works.push_back((*engine)->allgather_async("g", view_of(values)));
      EXPECT_TRUE(works[0]->wait().ok());
      works.push_back((*engine)->barrier_async("never." + std::to_string(rank)));
    }
    EXPECT_EQ(works[1]->wait().code(), StatusCode::kShutdown);
    const TensorView gathered = works[0]->result();
    works.clear();
    EXPECT_EQ(static_cast<const float*>(gathered.data)[7], 2);
  });
}

// Neighbours in lent memory are reduced where they lie: nothing but what they cover is written.
TEST_P(Life, LentMemoryIsReducedInPlaceAndOutlivesTheEngine) {
  constexpr size_t kCount = 50000;
  Ranks ranks(3, GetParam());
  ranks.run_bare([&](int rank) {
    std::shared_ptr<void> memory;
    {
      auto engine = Engine::create(ranks.options(rank));
      ASSERT_TRUE(engine.ok());
      memory = (*engine)->allocate(3 * kCount * sizeof(float));
      ASSERT_NE(memory, nullptr);
      auto* const values = static_cast<float*>(memory.get());
      EXPECT_EQ(std::count(values, values + 3 * kCount, 0.0F), std::ptrdiff_t{3 * kCount});
      std::fill_n(values, 2 * kCount, static_cast<float>(rank));
      std::vector<NamedTensor> tensors;
      for (size_t i = 0; i < 2; ++i) {
        TensorView view;
        view.data = values + i * kCount;
        view.shape = {kCount};
        view.owner = memory;
        tensors.push_back({"t" + std::to_string(i), view, view});
      }
      for (int step = 0; step < 4; ++step) {
        const auto works = (*engine)->grouped_allreduce_async("g", tensors, {});
        ASSERT_TRUE(wait_all(works).ok());
      }
    }
    const auto* const values = static_cast<const float*>(memory.get());
    EXPECT_EQ(std::count(values, values + 2 * kCount, 1.0F), std::ptrdiff_t{2 * kCount});
    EXPECT_EQ(std::count(values + 2 * kCount, values + 3 * kCount, 0.0F), std::ptrdiff_t{kCount});
  });
}

TEST_P(Life, MemoryIsLentInASetAndToWhoIsInNone) {
  Ranks(3, GetParam()).run([](Engine& engine) {
    const auto set = engine.add_process_set({0, 2});
    ASSERT_TRUE(set.ok());
    for (const ProcessSetId id : {*set, ProcessSetId{77}}) {
      const std::shared_ptr<void> memory = engine.allocate(5, id);
      ASSERT_NE(memory, nullptr);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0U);
    }
  });
}

TEST(Start, TimesOutNamingWhoDidNotCome) {
  Ranks ranks(3, {}, [](EngineOptions* options) { options->config.start_timeout_s = 0.3; });
  ranks.run_bare([&](int rank) {
    if (rank == 1) return;
    const auto begin = std::chrono::steady_clock::now();
    const auto engine = Engine::create(ranks.options(rank));
    ASSERT_FALSE(engine.ok());
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
    // The first to give up says so to the other.
    EXPECT_THAT(engine.status().message(), HasSubstr("not there: rank 1"));
  });
}

TEST(Start, OverTcpTimesOutToo) {
  Ranks ranks(2, {kBackends.back(), true},
              [](EngineOptions* options) { options->config.start_timeout_s = 0.5; });
  const auto engine = Engine::create(ranks.options(0));
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.status().code(), StatusCode::kTimeout) << engine.status().to_string();
  EXPECT_THAT(engine.status().message(), HasSubstr("1"));
}

TEST_P(Life, AnIdleEngineUsesNoCpu) {
  Ranks(2, GetParam()).run([](Engine& engine) {
    ASSERT_TRUE(engine.barrier_async("a")->wait().ok());
    timespec before{}, after{};
    if (engine.rank() == 0) {
      clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
      std::this_thread::sleep_for(300ms);  // the time that is measured
      clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
      const double used = static_cast<double>(after.tv_sec - before.tv_sec) +
                          1e-9 * static_cast<double>(after.tv_nsec - before.tv_nsec);
      EXPECT_LT(used, 0.03) << "of 0.3 s, by two idle engines and a waiting thread";
    }
    ASSERT_TRUE(engine.barrier_async("b")->wait().ok());
  });
}

}  // namespace
}  // namespace khorus::test
