// What happens when a rank aborts, leaves, stays away or runs something else.
//
// Every wait here must end within a second of its cause; the tests allow two, on a busy machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/conformance/plugin.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kBound{2};

class Faults : public ::testing::TestWithParam<std::tuple<const khorus_backend*, int>> {
 protected:
  const khorus_backend& backend() const { return *std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
};

void expect_aborted(const Status& status, const std::string& reason) {
  EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
  EXPECT_NE(status.message().find(reason), std::string::npos) << status.to_string();
}

// Every rank but one waits in an operation. One rank's abort() must free that rank; the others,
// which may be waiting for the one that never comes, are free when theirs is called.
TEST_P(Faults, AbortFreesABlockedRun) {
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
      entered.count_down();
      const Status status = member.ping();
      EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
      if (member.rank() == aborter) {
        expect_aborted(status, "the test says so");
        expect_aborted(member.ping(), "the test says so");
        freed.count_down();
      }
    });
    EXPECT_LT(Clock::now() - aborted_at, kBound);
  }
}

// As above with the data of large operations in flight all the time, from a moment that varies.
TEST_P(Faults, AbortFreesARunThatMovesData) {
  for (int repetition = 0; repetition < 6; ++repetition) {
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
      // The engine aborts on every rank.
      for (int i = 0; i < size(); ++i) world.member((aborter + i) % size()).abort("enough");
    });
    world.each([&](Member& member) {
      std::vector<float> data(1 << 20, 1.0f);
      Status status;
      while (status.ok()) {
        status = member.allreduce({DataType::kFloat32, ReduceOp::kMax, data.size()}, data.data(),
                                  data.data());
        operations.fetch_add(1);
        operations.notify_all();
      }
      EXPECT_TRUE(stopping) << status.to_string();
      if (member.rank() == aborter) expect_aborted(status, "enough");
      // The memory is the caller's again: nobody may write to it from now on.
      std::fill(data.begin(), data.end(), -1.0f);
      std::this_thread::yield();
      EXPECT_EQ(std::count(data.begin(), data.end(), -1.0f),
                static_cast<std::ptrdiff_t>(data.size()));
    });
    EXPECT_LT(Clock::now() - aborted_at, kBound);
  }
}

// The engine aborts its exchange together with the communicators.
TEST_P(Faults, AbortFreesABlockedConnect) {
  for (int absent = 0; absent < size(); ++absent) {
    World world(backend(), {.size = size()});
    Clock::time_point aborted_at;
    world.each([&](Member& member) {
      if (member.rank() == absent) {
        world.table().wait_for_arrivals(static_cast<size_t>(size()) - 1);
        aborted_at = Clock::now();
        for (int r = 0; r < size(); ++r) world.member(r).abort("not today");
        world.table().abort();
        return;
      }
      expect_aborted(member.connect(), "not today");
      expect_aborted(member.connect(), "not today");
    });
    EXPECT_LT(Clock::now() - aborted_at, kBound);
  }
}

// A rank that met the others but does not connect: it takes part in the exchange only.
TEST_P(Faults, AbortFreesAConnectAfterTheExchange) {
  if (backend().in_process_only != 0) GTEST_SKIP() << "connects within the exchange";
  for (int silent = 0; silent < size(); ++silent) {
    const int first_aborted = silent == 0 ? 1 : 0;
    World world(backend(), {.size = size()});
    Clock::time_point aborted_at;
    world.each([&](Member& member) {
      if (member.rank() != silent) {
        const Status status = member.connect();
        EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
        // Before its own turn a rank may hear from the data plane that another one has gone.
        if (member.rank() == first_aborted) expect_aborted(status, "give up");
        return;
      }
      // A card that no listening socket stands behind would be refused at once; this one belongs
      // to sockets that listen, but are not of this group.
      World stranger(backend(), {.size = size()});
      std::string card;
      std::vector<std::string> all;
      std::jthread listener([&] { static_cast<void>(stranger.member(silent).connect()); });
      stranger.table().wait_for_arrivals(1);
      card = stranger.table().bytes_of(silent);
      const bool exchanged = world.table().exchange(silent, backend().name, card, all);
      EXPECT_TRUE(exchanged);
      aborted_at = Clock::now();
      for (int r = 0; r < size(); ++r) world.member(r).abort("give up");
      stranger.table().abort();
    });
    EXPECT_LT(Clock::now() - aborted_at, kBound);
  }
}

TEST_P(Faults, AbortBeforeConnectAndTwice) {
  World world(backend(), {.size = size()});
  Member& first = world.member(0);
  first.abort("one");
  first.abort("two");
  expect_aborted(first.connect(), "one");
  first.disconnect();
}

TEST_P(Faults, SilentPeerTimesOut) {
  constexpr uint32_t kTimeoutMs = 300;
  World world(backend(), {.size = size(), .timeout_ms = kTimeoutMs});
  world.connect();
  std::latch done(size() - 1);
  std::atomic<int> waited_in_full{0};
  world.each([&](Member& member) {
    if (member.rank() == size() - 1) return done.wait();  // stays, and says nothing
    const auto start = Clock::now();
    std::vector<double> data(200000);
    const Status status = member.allreduce({DataType::kFloat64, ReduceOp::kSum, data.size()},
                                           data.data(), data.data());
    const auto waited = Clock::now() - start;
    EXPECT_FALSE(status.ok());
    // A rank that came a little later may hear of the timeout from one that waited in full.
    if (waited >= std::chrono::milliseconds(kTimeoutMs)) {
      ++waited_in_full;
      EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.to_string();
    }
    EXPECT_LT(waited, std::chrono::milliseconds(kTimeoutMs) + kBound);
    EXPECT_FALSE(member.ping().ok()) << "a communicator must not recover from an error";
    done.count_down();
  });
  EXPECT_GE(waited_in_full, 1);
}

// A rank that is through disconnects at once; the others must still get what it sent.
TEST_P(Faults, LeavingAfterTheLastOperationHarmsNobody) {
  for (int repetition = 0; repetition < 10; ++repetition) {
    World world(backend(), {.size = size()});
    world.connect();
    world.each([&](Member& member) {
      std::vector<int32_t> data(300000, member.rank());
      const Status status = member.allreduce({DataType::kInt32, ReduceOp::kMax, data.size()},
                                             data.data(), data.data());
      EXPECT_TRUE(status.ok()) << status.to_string();
      EXPECT_EQ(data.back(), size() - 1);
      // The last one is large or small, and small ones have a way of their own.
      const Status last = repetition % 2 == 0 ? member.broadcast(DataType::kInt32, data.size(), 0,
                                                                 data.data(), data.data())
                                              : member.ping();
      EXPECT_TRUE(last.ok()) << last.to_string();
      member.disconnect();
    });
  }
}

TEST_P(Faults, LeavingEarlyIsAnErrorForTheOthers) {
  World world(backend(), {.size = size()});
  world.connect();
  std::latch entered(size() - 1);
  Clock::time_point left_at;
  world.each([&](Member& member) {
    if (member.rank() == 0) {
      entered.wait();
      left_at = Clock::now();
      return member.disconnect();
    }
    entered.count_down();
    const Status status = member.ping();
    EXPECT_EQ(status.code(), StatusCode::kAborted) << status.to_string();
    member.disconnect();
  });
  EXPECT_LT(Clock::now() - left_at, kBound);
}

// Small operations that differ are an error on at least one rank, and nobody hangs.
TEST_P(Faults, DifferentOperationsAreNoticed) {
  World world(backend(), {.size = size()});
  world.connect();
  std::atomic<int> errors{0};
  world.each([&](Member& member) {
    std::vector<int32_t> data(10);
    const ReduceOp op = member.rank() == 0 ? ReduceOp::kMin : ReduceOp::kSum;
    const Status status =
        member.allreduce({DataType::kInt32, op, data.size()}, data.data(), data.data());
    if (!status.ok()) {
      ++errors;
      EXPECT_NE(status.message().find("rank"), std::string::npos) << status.to_string();
    }
    member.disconnect();
  });
  EXPECT_EQ(errors, size());
}

TEST_P(Faults, OpenChecksItsArguments) {
  ExchangeTable table(2);
  Host host(table, 0);
  const int32_t rank = 0;
  const char* name = "host";
  khorus_group group{};
  group.struct_size = sizeof(group);
  group.rank = 1;  // not in a group of one
  group.size = 1;
  group.global_ranks = &rank;
  group.hosts = &name;
  group.id = "x";
  group.network_interface = "";
  group.timeout_ms = 1000;
  group.host = &host.c;
  khorus_comm* comm = nullptr;
  khorus_error error{};
  EXPECT_EQ(backend().open(&group, &comm, &error), static_cast<int>(StatusCode::kInvalidArgument));
  EXPECT_EQ(comm, nullptr);
  EXPECT_STRNE(error.message, "");
}

std::string instance_name(const ::testing::TestParamInfo<Faults::ParamType>& info) {
  return std::string(std::get<0>(info.param)->name) + "_" + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Backends, Faults,
                         ::testing::Combine(::testing::ValuesIn(built_backends()),
                                            ::testing::Values(2, 4)),
                         instance_name);

TEST(GlooFaults, UnknownInterfaceIsNamed) {
  const khorus_backend* gloo = find_backend("gloo");
  if (gloo == nullptr) GTEST_SKIP() << "the gloo backend was not built";
  World world(*gloo, {.size = 2, .interface = "nosuch0"});
  const Status status = world.member(0).connect();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("nosuch0"), std::string::npos) << status.to_string();
  EXPECT_NE(status.message().find("lo"), std::string::npos) << status.to_string();
}

}  // namespace
}  // namespace khorus::conformance
