// Stopped neighbours: when they are lost, and when not. And what /proc says of real processes.
#include "core/runtime/peer_watch.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>

#include "core/runtime/process_stat.h"

namespace khorus::runtime {
namespace {

constexpr int64_t kSecond = 1'000'000;

struct Host {
  std::map<int64_t, char> states{{11, 'S'}, {12, 'R'}};
  PeerWatch watch{[this](int64_t pid) { return states.at(pid); }};
  Host() { watch.watch({{1, 11}, {2, 12}}, kSecond, 0); }
  // Looks whenever it is due until `end`; the ranks that were lost, and when.
  std::map<int, int64_t> look_until(int64_t end, int64_t late = 0) {
    std::map<int, int64_t> lost;
    while (watch.next() + late <= end) {
      const int64_t now = watch.next() + late;
      for (const PeerWatch::Lost& who : watch.look(now)) lost[who.rank] = now;
    }
    return lost;
  }
};

TEST(PeerWatch, AStoppedPeerIsLostInTime) {
  Host host;
  EXPECT_TRUE(host.look_until(10 * kSecond).empty());
  host.states[12] = 'T';
  const auto lost = host.look_until(30 * kSecond);
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_GT(lost.at(2), 10 * kSecond + kSecond / 2 - 1);
  EXPECT_LE(lost.at(2), 11 * kSecond);
}

TEST(PeerWatch, ADebuggerAndAnUnknownStateAreNoFault) {
  Host host;
  host.states[11] = 't';
  host.states[12] = '?';
  EXPECT_TRUE(host.look_until(60 * kSecond).empty());
}

TEST(PeerWatch, AShortStopIsNoFault) {
  Host host;
  for (int64_t half = 1; half < 20; ++half) {
    host.states[11] = half % 2 == 0 ? 'T' : 'S';
    EXPECT_TRUE(host.look_until(half * kSecond / 2).empty());
  }
}

TEST(PeerWatch, WhoDidNotRunItselfBeginsAnew) {
  Host host;
  host.states[11] = 'T';
  EXPECT_TRUE(host.look_until(60 * kSecond, kSecond / 5).empty());  // every look is late
  EXPECT_EQ(host.look_until(62 * kSecond).size(), 1u);
}

TEST(PeerWatch, OffAndNobodyNeverAwakes) {
  Host host;
  host.watch.watch({}, kSecond, 0);
  EXPECT_EQ(host.watch.next(), PeerWatch::kNever);
  host.watch.watch({{1, 11}}, 0, 0);
  EXPECT_EQ(host.watch.next(), PeerWatch::kNever);
}

// The child waits in pause(2) until the parent ends it.
struct Child {
  pid_t pid = fork();
  Child() {
    if (pid == 0) {
      for (;;) pause();
    }
  }
  ~Child() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
};

TEST(ProcessStat, TellsStoppedFromTraced) {
  Child child;
  EXPECT_NE(process_identity(child.pid), process_identity(0));
  EXPECT_EQ(process_identity(getpid()), process_identity(0));
  ASSERT_EQ(kill(child.pid, SIGSTOP), 0);
  ASSERT_EQ(waitpid(child.pid, nullptr, WUNTRACED), child.pid);
  EXPECT_EQ(read_process_stat(child.pid)->state, 'T');
  ASSERT_EQ(kill(child.pid, SIGCONT), 0);
  ASSERT_EQ(waitpid(child.pid, nullptr, WCONTINUED), child.pid);
  if (ptrace(PTRACE_ATTACH, child.pid, nullptr, nullptr) != 0) GTEST_SKIP() << "no ptrace here";
  ASSERT_EQ(waitpid(child.pid, nullptr, 0), child.pid);
  EXPECT_EQ(read_process_stat(child.pid)->state, 't');
}

TEST(ProcessStat, NobodyHasNone) {
  EXPECT_FALSE(read_process_stat(1 << 30).has_value());
  EXPECT_EQ(process_identity(1 << 30), "");
}

}  // namespace
}  // namespace khorus::runtime
