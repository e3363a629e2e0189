// What is MPI's own: abort by taking back or abandoning, one start per process, groups of some of
// the ranks, applications that use MPI themselves. Under mpirun, one process per rank
// (process_rank.h).
//
// Some of these leave MPI unusable, and mpirun complains of a process that ends without
// MPI_Finalize: so each runs in a job of its own (test_mpirun.py), and rank 0 says at the end
// whether every rank has passed.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "tests/conformance/plugin.h"
#include "tests/conformance/process_rank.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

// Null when the tests are only listed.
ProcessRank& self() { return *ProcessRank::current(); }

// Every process waits here for all others, and learns what each has to say.
std::vector<std::string> together(const std::string& where, const std::string& words = "") {
  std::vector<std::string> all;
  EXPECT_TRUE(self().exchange({where, self().rank(), self().size()}, words, &all)) << where;
  return all;
}

class Verdict : public ::testing::Environment {
 public:
  void TearDown() override {
    const auto& test = *::testing::UnitTest::GetInstance();
    const bool passed = test.failed_test_count() == 0 && test.successful_test_count() > 0;
    const auto all = together("verdict", passed ? "passed" : "failed");
    if (self().rank() == 0 && std::ranges::count(all, "passed") == self().size()) {
      std::printf("every rank has passed\n");
      std::fflush(stdout);
    }
    together("said");
  }
};
[[maybe_unused]] const auto* const kVerdict = ::testing::AddGlobalTestEnvironment(new Verdict);

// Calls abort() on another thread, some time from now; keeps the moment.
class Aborter {
 public:
  Aborter(Member& member, milliseconds delay)
      : thread_([this, &member, delay] {
          std::unique_lock lock(mutex_);
          never_.wait_for(lock, delay);
          at_ = Clock::now();
          member.abort("the test says so");
        }) {}
  // How long ago. Waits for the call.
  Clock::duration since() {
    thread_.join();
    return Clock::now() - at_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable never_;
  Clock::time_point at_;
  std::jthread thread_;
};

class Mpi : public ::testing::Test {
 protected:
  const khorus_backend& backend() const { return *find_backend("mpi"); }
  bool is_last() const { return self().rank() == self().size() - 1; }
  std::unique_ptr<World> new_world(uint32_t timeout_ms = 30000) const {
    return std::make_unique<World>(backend(),
                                   WorldOptions{.size = self().size(), .timeout_ms = timeout_ms});
  }
  Member& own(World& world) const { return world.member(self().rank()); }
};

// Receives that have met no message are cancelled: nothing stays behind, and MPI can be used again.
TEST_F(Mpi, WhatIsTakenBackCanStartAgain) {
  for (const int delay_ms : {0, 50, 200}) {
    const auto world = new_world();
    world->connect();
    EXPECT_TRUE(own(*world).ping().ok());
    if (!is_last()) {
      Aborter aborter(own(*world), milliseconds(delay_ms));
      const Status status = own(*world).ping();
      EXPECT_LT(aborter.since(), milliseconds(1000));
      EXPECT_EQ(status.code(), StatusCode::kAborted);
      EXPECT_THAT(status.message(), HasSubstr("the test says so"));
      EXPECT_EQ(own(*world).ping(), status) << "a second run";
    }
    together("aborted " + std::to_string(delay_ms));
  }
  const auto world = new_world();
  world->connect();
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(own(*world).ping().ok());
}

// Large messages wait for their receiver and cannot be taken back.
TEST_F(Mpi, WhatIsAbandonedIsRefusedLater) {
  const auto world = new_world();
  world->connect();
  std::vector<int32_t> data(3 << 20, 1);
  const auto allreduce = [&] {
    return own(*world).allreduce({DataType::kInt32, ReduceOp::kSum, data.size()}, data.data(),
                                 data.data());
  };
  if (!is_last()) {
    Aborter aborter(own(*world), milliseconds(100));
    EXPECT_EQ(allreduce().code(), StatusCode::kAborted);
    EXPECT_LT(aborter.since(), milliseconds(1000));
    // From here on the memory is ours: what the late rank does must not show in it.
    data.assign(data.size(), 77);
  }
  together("aborted");
  if (is_last()) {
    Aborter aborter(own(*world), milliseconds(200));
    EXPECT_EQ(allreduce().code(), StatusCode::kAborted);
    EXPECT_LT(aborter.since(), milliseconds(1000));
  }
  together("all aborted");
  if (!is_last()) {
    EXPECT_EQ(std::ranges::count(data, 77), std::ssize(data));
  }
  world->member(self().rank()).disconnect();
  const auto next = new_world();
  if (!is_last() || self().size() > 2) {
    const Status status = own(*next).connect();
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr("MPI cannot be used again in this process"));
    EXPECT_THAT(status.message(), HasSubstr("allreduce of 3145728 int32"));
  }
}

// MPI_Init_thread waits for all ranks.
TEST_F(Mpi, AbortEndsTheStart) {
  const auto world = new_world();
  if (!is_last()) {
    Aborter aborter(own(*world), milliseconds(200));
    const Status status = own(*world).connect();
    EXPECT_LT(aborter.since(), milliseconds(1000));
    EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
    EXPECT_THAT(status.message(), HasSubstr("the test says so"));
  }
  together("aborted");
}

TEST_F(Mpi, SilenceNamesTheRank) {
  const auto world = new_world(300);
  world->connect();
  EXPECT_TRUE(own(*world).ping().ok());
  if (!is_last()) {
    const Clock::time_point began = Clock::now();
    const Status status = own(*world).ping();
    EXPECT_GE(Clock::now() - began, milliseconds(300));
    EXPECT_LT(Clock::now() - began, milliseconds(2000));
    EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.to_string();
    EXPECT_EQ(status.lost_rank(), 3 * (self().size() - 1) + 2);
    EXPECT_THAT(status.message(), HasSubstr("rank " + std::to_string(status.lost_rank()) +
                                            " (testhost), in allreduce of 1 int32: nothing came"));
    EXPECT_EQ(own(*world).ping(), status) << "a second run";
  }
  together("silence");
}

// Groups of two of the ranks, and of all; made from several threads at once, each process in
// another order, and again over the same ranks.
TEST_F(Mpi, GroupsOfSomeRanksAtTheSameTime) {
  const int size = self().size();
  for (int round = 0; round < 3; ++round) {
    std::vector<std::vector<int>> groups;
    for (int a = 0; a < size; ++a) {
      for (int b = a + 1; b < size; ++b) groups.push_back({a, b});
    }
    std::vector<int> everybody;
    for (int r = 0; r < size; ++r) everybody.push_back(r);
    groups.push_back(everybody);
    groups.push_back(everybody);
    std::vector<std::unique_ptr<ExchangeTable>> tables;
    for (const auto& group : groups) {
      tables.push_back(std::make_unique<ExchangeTable>(static_cast<int>(group.size())));
    }
    std::vector<std::jthread> threads;
    for (size_t step = 0; step < groups.size(); ++step) {
      const size_t index = (step + static_cast<size_t>(self().rank())) % groups.size();
      const std::vector<int>& group = groups[index];
      const auto here = std::ranges::find(group, self().rank());
      if (here == group.end()) continue;
      threads.emplace_back([this, &table = *tables[index], &group, rank = here - group.begin()] {
        Host host(table, static_cast<int>(rank));
        Member member(backend(), host, {.size = static_cast<int>(group.size())});
        const Status status = member.connect();
        ASSERT_TRUE(status.ok()) << status.to_string();
        for (int i = 0; i < 20; ++i) {
          int32_t sum = self().rank();
          ASSERT_TRUE(member.allreduce({DataType::kInt32, ReduceOp::kSum, 1}, &sum, &sum).ok());
          ASSERT_EQ(sum, std::accumulate(group.begin(), group.end(), 0));
        }
      });
    }
  }
}

// The functions of MPI, as an application that links it has them. The header of MPI belongs to the
// backend alone.
class Application {
 public:
  static constexpr int kSingle = 0;
  static constexpr int kMultiple = 3;
  explicit Application(int wanted_level) : library_(::dlopen("libmpi.so.40", RTLD_NOW)) {
    int given = -1;
    EXPECT_EQ(function<int(int*, char***, int, int*)>("MPI_Init_thread")(nullptr, nullptr,
                                                                         wanted_level, &given),
              0);
    EXPECT_EQ(given, wanted_level);
  }
  void finalize() { EXPECT_EQ(function<int()>("MPI_Finalize")(), 0); }

 private:
  template <class Function>
  Function* function(const char* name) {
    return reinterpret_cast<Function*>(::dlsym(library_, name));
  }
  void* library_;
};

TEST_F(Mpi, AnApplicationsOwnMpiIsShared) {
  Application application(Application::kMultiple);
  {
    const auto world = new_world();
    world->connect();
    EXPECT_TRUE(own(*world).ping().ok());
  }
  application.finalize();
  const auto late = new_world();
  const Status status = own(*late).connect();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("MPI_Finalize was called already"));
}

TEST_F(Mpi, AnApplicationsMpiWithoutThreadsIsRefused) {
  Application application(Application::kSingle);
  const auto world = new_world();
  const Status status = own(*world).connect();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("MPI_THREAD_MULTIPLE"));
  application.finalize();
}

TEST_F(Mpi, AnApplicationThatIsThroughIsRefused) {
  Application application(Application::kMultiple);
  application.finalize();
  const auto world = new_world();
  const Status status = own(*world).connect();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("MPI_Finalize was called already"));
}

}  // namespace
}  // namespace khorus::conformance
