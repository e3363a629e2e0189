// Alltoall, reducescatter and send/recv when a rank aborts, leaves or stays away in the middle.
//
// As in faults_test.cc: every wait must end within a second of its cause; two, on a busy machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <latch>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/conformance/plugin.h"
#include "tests/conformance/traffic.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kBound{2};

class Interruptions
    : public ::testing::TestWithParam<std::tuple<const khorus_backend*, OpKind, int>> {
 protected:
  const khorus_backend& backend() const { return *std::get<0>(GetParam()); }
  OpKind kind() const { return std::get<1>(GetParam()); }
  int size() const { return std::get<2>(GetParam()); }
};

void expect_aborted(const Status& status, const std::string& reason) {
  EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
  EXPECT_NE(status.message().find(reason), std::string::npos) << status.to_string();
}

// Every rank but one waits, with small messages and with large ones. One rank's abort() must free
// that rank, the others are free when theirs is called.
TEST_P(Interruptions, AbortFreesABlockedRun) {
  for (int absent = 0; absent < size(); ++absent) {
    World world(backend(), {.size = size()});
    world.connect();
    const int aborter = (absent + 1) % size();
    std::latch entered(size() - 1);
    std::latch freed(1);
    Clock::time_point aborted_at;
    world.each([&](Member& member) {
      if (member.rank() == absent) {
        entered.wait();
        aborted_at = Clock::now();
        world.member(aborter).abort("the test says so");
        freed.wait();
        for (int r = 0; r < size(); ++r) world.member(r).abort("so do the others");
        return;
      }
      Traffic traffic(member, kind(), absent % 2 == 0 ? 5 : 300000);
      entered.count_down();
      const Status status = traffic.run();
      EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
      if (member.rank() == aborter) {
        expect_aborted(status, "the test says so");
        expect_aborted(traffic.run(), "the test says so");
        freed.count_down();
      }
    });
    EXPECT_LT(Clock::now() - aborted_at, kBound);
  }
}

// As above with the data of large operations in flight all the time, from a moment that varies.
TEST_P(Interruptions, AbortFreesARunThatMovesData) {
  for (int repetition = 0; repetition < 5; ++repetition) {
    World world(backend(), {.size = size()});
    world.connect();
    const int aborter = repetition % size();
    std::atomic<int> operations{0};
    std::atomic<bool> stopping{false};
    Clock::time_point aborted_at;
    std::jthread saboteur([&] {
      // Some operations later, somewhere within one.
      for (int seen = 0; seen < 3 * repetition + 1; seen = operations.load()) {
        operations.wait(seen);
      }
      aborted_at = Clock::now();
      stopping = true;
      for (int i = 0; i < size(); ++i) world.member((aborter + i) % size()).abort("enough");
    });
    world.each([&](Member& member) {
      Traffic traffic(member, kind(), (1 << 20) / static_cast<size_t>(size()));
      Status status;
      while (status.ok()) {
        status = traffic.run();
        operations.fetch_add(1);
        operations.notify_all();
      }
      EXPECT_TRUE(stopping) << status.to_string();
      EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
      if (member.rank() == aborter) expect_aborted(status, "enough");
      // The memory is the caller's again: nobody may write to it from now on.
      std::vector<float>& memory = traffic.output();
      std::fill(memory.begin(), memory.end(), -1.0f);
      std::this_thread::yield();
      EXPECT_EQ(std::count(memory.begin(), memory.end(), -1.0f),
                static_cast<std::ptrdiff_t>(memory.size()));
    });
    EXPECT_LT(Clock::now() - aborted_at, kBound);
  }
}

TEST_P(Interruptions, SilentPeerTimesOut) {
  constexpr uint32_t kTimeoutMs = 300;
  World world(backend(), {.size = size(), .timeout_ms = kTimeoutMs});
  world.connect();
  std::latch done(size() - 1);
  std::atomic<int> timed_out{0};
  world.each([&](Member& member) {
    if (member.rank() == size() - 1) return done.wait();  // stays, and says nothing
    const auto start = Clock::now();
    Traffic traffic(member, kind(), 100000);
    const Status status = traffic.run();
    EXPECT_FALSE(status.ok());
    // A rank that came a little later may hear of the timeout from one that waited in full.
    if (status.code() == StatusCode::kTimeout) ++timed_out;
    EXPECT_LT(Clock::now() - start, size() * std::chrono::milliseconds(kTimeoutMs) + kBound);
    EXPECT_FALSE(member.ping().ok()) << "a communicator must not recover from an error";
    done.count_down();
  });
  EXPECT_GE(timed_out, 1);
}

// A rank that is through disconnects at once; the others must still get what it sent.
TEST_P(Interruptions, LeavingAfterTheLastOperationHarmsNobody) {
  for (int repetition = 0; repetition < 5; ++repetition) {
    World world(backend(), {.size = size()});
    world.connect();
    world.each([&](Member& member) {
      Traffic traffic(member, kind(), repetition % 2 == 0 ? 100000 : 3);
      const Status status = traffic.run();
      EXPECT_TRUE(status.ok()) << status.to_string();
      member.disconnect();
    });
  }
}

TEST_P(Interruptions, LeavingInTheMiddleIsAnErrorForTheOthers) {
  World world(backend(), {.size = size()});
  world.connect();
  std::latch entered(size() - 1);
  Clock::time_point left_at;
  world.each([&](Member& member) {
    Traffic traffic(member, kind(), 300000);
    ASSERT_TRUE(traffic.run().ok());
    if (member.rank() == 0) {
      entered.wait();
      left_at = Clock::now();
      return member.disconnect();
    }
    entered.count_down();
    const Status status = traffic.run();
    EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
    EXPECT_GE(status.lost_rank(), 0) << status.to_string();
    member.disconnect();
  });
  EXPECT_LT(Clock::now() - left_at, kBound);
}

std::string instance_name(const ::testing::TestParamInfo<Interruptions::ParamType>& info) {
  std::string kind(to_string(std::get<1>(info.param)));
  std::erase(kind, '/');
  return std::string(std::get<0>(info.param)->name) + "_" + kind + "_" +
         std::to_string(std::get<2>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Backends, Interruptions,
                         ::testing::Combine(::testing::ValuesIn(built_backends()),
                                            ::testing::Values(OpKind::kAlltoall,
                                                              OpKind::kReducescatter,
                                                              OpKind::kSendRecv),
                                            ::testing::Values(2, 4)),
                         instance_name);

// What the reference checks although the engine promises it: the engine's own tests count on it.
class LocalMismatch : public ::testing::Test {
 protected:
  // `run` differs by rank; both must be told so in these words.
  void expect_mismatch(const std::function<Status(Member&)>& run, const std::string& words) {
    World world(*find_backend("local"), {.size = 2});
    world.connect();
    world.each([&](Member& member) {
      const Status status = run(member);
      EXPECT_EQ(status.code(), StatusCode::kMismatch) << status.to_string();
      EXPECT_NE(status.message().find(words), std::string::npos) << status.to_string();
    });
  }
};

TEST_F(LocalMismatch, OfWhatIsSentAndExpected) {
  std::vector<int32_t> input(8);
  expect_mismatch(
      [&](Member& member) {
        std::vector<int32_t> output(8);
        const uint64_t expected = member.rank() == 0 ? 4 : 3;
        return member.alltoall(DataType::kInt32, {4, 4}, {expected, expected}, input.data(),
                               output.data());
      },
      "rank 2 sends 4 elements to rank 5, which expects 3");
  expect_mismatch(
      [&](Member& member) {
        std::vector<int32_t> output(8);
        return member.sendrecv({DataType::kInt32, 1 - member.rank(), 2, 7}, input.data(),
                               output.data());
      },
      "rank 2 sends 2 elements to rank 5, which expects 7");
}

TEST_F(LocalMismatch, OfBlocksAndReductions) {
  std::vector<int32_t> input(8);
  expect_mismatch(
      [&](Member& member) {
        std::vector<int32_t> output(8);
        const uint64_t first = member.rank() == 0 ? 4 : 3;
        return member.reducescatter({DataType::kInt32, ReduceOp::kSum, {first, 8 - first}},
                                    input.data(), output.data());
      },
      "reducescatter of 8 int32 (sum)");
  expect_mismatch(
      [&](Member& member) {
        std::vector<int32_t> output(8);
        const ReduceOp op = member.rank() == 0 ? ReduceOp::kMin : ReduceOp::kMax;
        return member.reducescatter({DataType::kInt32, op, {4, 4}}, input.data(), output.data());
      },
      "(max)");
}

}  // namespace
}  // namespace khorus::conformance
