// Ranks as real processes: SIGKILL of one must be an error on all the others, also while a forked
// child of the dead one lives on; and the local backend must refuse ranks of other processes.
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include "khorus/status.h"
#include "tests/conformance/framing.h"
#include "tests/conformance/plugin.h"

extern char** environ;

namespace khorus::conformance {
namespace {

using Clock = std::chrono::steady_clock;

// The processes of one group; whatever is left of them is killed at the end.
class Processes {
 public:
  Processes(const std::string& backend, int size, const std::string& task) {
    for (int r = 0; r < size; ++r) start(backend, r, size, task);
  }
  ~Processes() {
    for (size_t i = 0; i < pids_.size(); ++i) {
      if (pids_[i] > 0) {
        ::kill(pids_[i], SIGKILL);
        ::waitpid(pids_[i], nullptr, 0);
      }
      ::close(sockets_[i]);
    }
  }
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // Plays the engine: one frame from everybody goes to everybody.
  void relay_exchange() {
    std::vector<std::string> frames;
    for (size_t i = 0; i < sockets_.size(); ++i) frames.push_back(frame_from(i));
    for (const int socket : sockets_) {
      for (const std::string& frame : frames) send_frame(socket, frame);
    }
  }
  std::string frame_from(size_t rank) {
    std::string frame;
    EXPECT_TRUE(receive_frame(sockets_[rank], frame)) << "rank " << rank << " is gone";
    return frame;
  }
  void kill(size_t rank) {
    ::kill(pids_[rank], SIGKILL);
    wait(rank);
  }
  // The exit code, or -signal.
  int wait(size_t rank) {
    int status = 0;
    ::waitpid(pids_[rank], &status, 0);
    pids_[rank] = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  void start(const std::string& backend, int rank, int size, const std::string& task) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    constexpr int kChildSocket = 3;
    // dup2 onto itself clears close-on-exec too, which posix_spawn guarantees.
    ::posix_spawn_file_actions_adddup2(&actions, ends[1], kChildSocket);
    std::vector<std::string> words{KHORUS_TEST_RANK_PROCESS,     backend,
                                   std::to_string(rank),         std::to_string(size),
                                   std::to_string(kChildSocket), task};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t pid = 0;
    ASSERT_EQ(::posix_spawn(&pid, arguments[0], &actions, nullptr, arguments.data(), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    pids_.push_back(pid);
    sockets_.push_back(ends[0]);
  }

  std::vector<pid_t> pids_;
  std::vector<int> sockets_;
};

class GlooProcesses : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (find_backend("gloo") == nullptr) GTEST_SKIP() << "the gloo backend was not built";
  }
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

TEST_P(GlooProcesses, KilledRankIsAnErrorOnAllOthers) {
  for (const char* task : {"allreduce", "alltoall", "reducescatter", "sendrecv"}) {
    SCOPED_TRACE(task);
    for (int repetition = 0; repetition < 3; ++repetition) {
      Processes processes("gloo", GetParam(), task);
      processes.relay_exchange();
      kill_one_and_watch(processes, GetParam());
    }
  }
}

TEST_P(GlooProcesses, ForkedChildrenDoNotKeepConnectionsOpen) {
  const int size = GetParam();
  Processes processes("gloo", size, "forked");
  processes.relay_exchange();
  std::vector<pid_t> children;
  for (int r = 0; r < size; ++r) {
    children.push_back(std::stoi(processes.frame_from(static_cast<size_t>(r))));
  }
  kill_one_and_watch(processes, size);
  for (const pid_t child : children) {
    EXPECT_EQ(::kill(child, SIGKILL), 0) << "the forked child should still have been there";
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, GlooProcesses, ::testing::Values(2, 3));

TEST(LocalProcesses, RanksOfOtherProcessesAreRefused) {
  Processes processes("local", 2, "allreduce");
  processes.relay_exchange();
  EXPECT_EQ(processes.wait(1), static_cast<int>(StatusCode::kUnavailable));
}

}  // namespace
}  // namespace khorus::conformance
