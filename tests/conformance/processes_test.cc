// Ranks as real processes: SIGKILL of one must be an error on all the others, also while a forked
// child of the dead one lives on; and the local backend must refuse ranks of other processes.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <string>
#include <tuple>
#include <vector>

#include "khorus/status.h"
#include "tests/conformance/plugin.h"
#include "tests/conformance/processes.h"

namespace khorus::conformance {
namespace {

using Clock = std::chrono::steady_clock;

class AcrossProcesses : public ::testing::TestWithParam<std::tuple<std::string, int>> {
 protected:
  void SetUp() override {
    if (find_backend(backend()) == nullptr) GTEST_SKIP() << backend() << " was not built";
  }
  std::string backend() const { return std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
  // Kills the last rank while all are working and waits for the others to end by themselves.
  static void kill_one_and_watch(Processes& processes, int size) {
    for (int r = 0; r < size; ++r) {
      EXPECT_EQ(processes.frame_from(static_cast<size_t>(r)), "working");
    }
    const Clock::time_point killed_at = Clock::now();
    processes.kill(static_cast<size_t>(size - 1));
    for (int r = 0; r + 1 < size; ++r) {
      EXPECT_EQ(processes.wait(static_cast<size_t>(r)), static_cast<int>(StatusCode::kAborted))
          << "rank " << r;
    }
    EXPECT_LT(Clock::now() - killed_at, std::chrono::seconds(3));
  }
};

TEST_P(AcrossProcesses, KilledRankIsAnErrorOnAllOthers) {
  for (const char* task : {"allreduce", "alltoall", "reducescatter", "sendrecv"}) {
    SCOPED_TRACE(task);
    for (int repetition = 0; repetition < 3; ++repetition) {
      Processes processes(backend(), size(), task);
      processes.relay_exchange();
      kill_one_and_watch(processes, size());
    }
  }
}

TEST_P(AcrossProcesses, ForkedChildrenDoNotKeepConnectionsOpen) {
  Processes processes(backend(), size(), "forked");
  processes.relay_exchange();
  std::vector<pid_t> children;
  for (int r = 0; r < size(); ++r) {
    children.push_back(std::stoi(processes.frame_from(static_cast<size_t>(r))));
  }
  kill_one_and_watch(processes, size());
  for (const pid_t child : children) {
    EXPECT_EQ(::kill(child, SIGKILL), 0) << "the forked child should still have been there";
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, AcrossProcesses,
                         ::testing::Combine(::testing::Values("gloo", "shm", "nccl"),
                                            ::testing::Values(2, 3)),
                         [](const auto& instance) {
                           return std::get<0>(instance.param) + "_" +
                                  std::to_string(std::get<1>(instance.param));
                         });

TEST(LocalProcesses, RanksOfOtherProcessesAreRefused) {
  Processes processes("local", 2, "allreduce");
  processes.relay_exchange();
  EXPECT_EQ(processes.wait(1), static_cast<int>(StatusCode::kUnavailable));
}

}  // namespace
}  // namespace khorus::conformance
