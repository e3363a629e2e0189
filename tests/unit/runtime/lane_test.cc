// Lane and Parker: order, the runner's role, wake-ups, failures.
#include "core/runtime/lane.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/runtime/ranks.h"

namespace khorus::runtime {
namespace {

using namespace std::chrono_literals;

std::chrono::steady_clock::time_point soon() { return std::chrono::steady_clock::now() + 20s; }

WorkStatePtr make_work(const std::shared_ptr<Lane>& lane, int number) {
  WorkState::Operation operation;
  operation.name = std::to_string(number);
  return std::make_shared<WorkState>(std::move(operation), lane);
}

Job job_of(std::vector<WorkStatePtr> works) {
  Job job;
  job.works = std::move(works);
  return job;
}

std::vector<Job> jobs_of(const std::vector<WorkStatePtr>& works) {
  std::vector<Job> jobs;
  for (const WorkStatePtr& work : works) jobs.push_back(job_of({work}));
  return jobs;
}

void finish_all(Lane& lane, const Job& job, const Status& status = Status()) {
  std::vector<Lane::Finished> finished;
  for (const WorkStatePtr& work : job.works) finished.push_back({work.get(), status});
  lane.finish(finished);
}

TEST(Parker, TokenBeforeAndAfterParking) {
  Parker parker;
  EXPECT_EQ(parker.give(), nullptr);  // nobody sleeps
  parker.park();                      // takes the token
  for (int round = 0; round < 2000; ++round) {
    std::thread giver([&] { Parker::unpark(parker.give()); });
    parker.park();
    giver.join();
  }
}

TEST(Lane, ExecutorRunsInOrderWhenNobodyWaits) {
  auto lane = std::make_shared<Lane>();
  std::vector<std::string> order;
  lane->start([&](Job& job) {
    order.push_back(job.works.front()->name());
    finish_all(*lane, job);
    return true;
  });
  std::vector<WorkStatePtr> works;
  for (int i = 0; i < 100; ++i) works.push_back(make_work(lane, i));
  lane->push(jobs_of(works));
  for (const auto& work : works) EXPECT_TRUE(work->wait().ok());
  ASSERT_TRUE(lane->stop(soon()));
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], std::to_string(i));
}

TEST(Lane, AWaitingThreadRunsItsOwnJob) {
  auto lane = std::make_shared<Lane>();
  std::mutex mutex;
  std::thread::id runner;
  lane->start([&](Job& job) {
    {
      const std::lock_guard lock(mutex);
      runner = std::this_thread::get_id();
    }
    finish_all(*lane, job);
    return true;
  });
  bool by_waiter = false;
  // Whether the waiter sleeps before the push is chance; that it never does is not.
  for (int round = 0; round < 2000 && !by_waiter; ++round) {
    auto work = make_work(lane, round);
    std::latch waiting(1);
    std::thread waiter([&] {
      waiting.count_down();
      EXPECT_TRUE(work->wait().ok());
    });
    waiting.wait();
    const auto waiter_id = waiter.get_id();
    lane->push(jobs_of({work}));
    waiter.join();
    const std::lock_guard lock(mutex);
    by_waiter = runner == waiter_id;
  }
  EXPECT_TRUE(by_waiter);
  ASSERT_TRUE(lane->stop(soon()));
}

// Many threads wait for works in random order while jobs are pushed: every waiter returns, jobs run
// one at a time and in order.
TEST(Lane, NoWakeupIsLost) {
  for (int round = 0; round < 20 * test::soak_factor(50); ++round) {
    auto lane = std::make_shared<Lane>();
    std::atomic<int> running{0};
    std::atomic<int> next{0};
    lane->start([&](Job& job) {
      EXPECT_EQ(running.fetch_add(1), 0);
      EXPECT_EQ(job.works.front()->name(), std::to_string(next.fetch_add(1)));
      finish_all(*lane, job);
      running.fetch_sub(1);
      return true;
    });
    constexpr int kWorks = 200;
    std::vector<WorkStatePtr> works;
    for (int i = 0; i < kWorks; ++i) works.push_back(make_work(lane, i));
    std::vector<std::thread> waiters;
    for (int t = 0; t < 4; ++t) {
      waiters.emplace_back([&, t] {
        std::vector<WorkStatePtr> mine = works;
        std::shuffle(mine.begin(), mine.end(), std::mt19937(static_cast<unsigned>(round * 4 + t)));
        for (const auto& work : mine) EXPECT_TRUE(work->wait().ok());
      });
    }
    std::mt19937 random(static_cast<unsigned>(round));
    for (size_t i = 0; i < works.size();) {
      std::vector<WorkStatePtr> some;
      for (unsigned n = 1 + random() % 4; n > 0 && i < works.size(); --n)
        some.push_back(works[i++]);
      lane->push(jobs_of(some));
    }
    for (std::thread& waiter : waiters) waiter.join();
    ASSERT_TRUE(lane->stop(soon()));
  }
}

TEST(Lane, AFailedJobWaitsForTheVerdict) {
  auto lane = std::make_shared<Lane>();
  std::latch failed(1);
  lane->start([&](Job&) {
    failed.count_down();
    return false;
  });
  auto first = make_work(lane, 0);
  auto second = make_work(lane, 1);
  lane->push(jobs_of({first, second}));
  std::thread waiter([&] { EXPECT_EQ(second->wait().code(), StatusCode::kPeerLost); });
  failed.wait();
  EXPECT_FALSE(first->poll());
  lane->fail(Status(StatusCode::kPeerLost, "rank 3 is lost", 3));
  waiter.join();
  EXPECT_EQ(first->wait().lost_rank(), 3);
  auto late = make_work(lane, 2);
  lane->push(jobs_of({late}));
  EXPECT_EQ(late->wait().code(), StatusCode::kPeerLost);
  ASSERT_TRUE(lane->stop(soon()));
}

TEST(Lane, StopGivesUpOnARunnerThatDoesNotReturn) {
  auto lane = std::make_shared<Lane>();
  std::latch entered(1), leave(1);
  lane->start([&](Job& job) {
    entered.count_down();
    leave.wait();
    finish_all(*lane, job);
    return true;
  });
  auto work = make_work(lane, 0);
  lane->push(jobs_of({work}));
  entered.wait();
  EXPECT_FALSE(lane->stop(std::chrono::steady_clock::now() + 20ms));
  leave.count_down();
  EXPECT_TRUE(work->wait().ok());
  EXPECT_TRUE(lane->stop(soon()));
}

// SIGUSR1 reaches the waiting thread; the job it waits for runs elsewhere, for it must be free for
// signals even while the job is running.
TEST(Lane, AWaitThatSignalsInterrupt) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  auto lane = std::make_shared<Lane>();
  std::latch running(1), go_on(1);
  std::thread::id runner;
  lane->start([&](Job& job) {
    runner = std::this_thread::get_id();
    running.count_down();
    go_on.wait();
    finish_all(*lane, job);
    return true;
  });
  const WorkStatePtr work = make_work(lane, 0);
  std::atomic<int> interruptions{0};
  Status status(StatusCode::kInternal, "unchanged");
  std::thread waiter([&] {
    while (!work->wait_or_signal(&status)) {
      EXPECT_EQ(status.code(), StatusCode::kInternal);
      if (++interruptions == 3) go_on.count_down();
    }
  });
  lane->push(jobs_of({work}));
  running.wait();
  EXPECT_NE(runner, waiter.get_id());
  while (interruptions < 3) pthread_kill(waiter.native_handle(), SIGUSR1);
  waiter.join();
  EXPECT_TRUE(status.ok());
  EXPECT_TRUE(work->wait_or_signal(&status));
  ASSERT_TRUE(lane->stop(soon()));
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
}

TEST(Work, CallbacksRunBeforeWaitersReturn) {
  auto lane = std::make_shared<Lane>();
  lane->start([](Job&) { return true; });
  for (int round = 0; round < 200; ++round) {
    auto work = make_work(lane, round);
    std::atomic<int> called{0};
    work->on_done([&](const Status& status) {
      EXPECT_EQ(status.code(), StatusCode::kShutdown);
      EXPECT_TRUE(work->poll());
      EXPECT_EQ(work->wait().code(), StatusCode::kShutdown);  // its own thread does not block
      called.fetch_add(1);
    });
    std::thread waiter([&] {
      EXPECT_FALSE(work->wait().ok());
      EXPECT_EQ(called.load(), 1);
    });
    const Lane::Finished finished{work.get(), Status(StatusCode::kShutdown, "over")};
    lane->finish(std::span(&finished, 1));
    waiter.join();
    bool at_once = false;
    work->on_done([&](const Status&) { at_once = true; });
    EXPECT_TRUE(at_once);
  }
  ASSERT_TRUE(lane->stop(soon()));
}

TEST(Work, ReleasesItsInputWhenItIsOver) {
  auto lane = std::make_shared<Lane>();
  lane->start([](Job&) { return true; });
  auto owner = std::make_shared<int>(1);
  WorkState::Operation operation;
  operation.input.owner = owner;
  auto work = std::make_shared<WorkState>(std::move(operation), lane);
  EXPECT_EQ(owner.use_count(), 2);
  const Lane::Finished finished{work.get(), Status()};
  lane->finish(std::span(&finished, 1));
  EXPECT_EQ(owner.use_count(), 1);
  ASSERT_TRUE(lane->stop(soon()));
}

}  // namespace
}  // namespace khorus::runtime
