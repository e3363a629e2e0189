// What is particular to shared memory between processes: ranks killed and stopped at random
// moments, strangers at the door, another network namespace; and that nothing is left, not in
// data-loader children either.
//
// The moments follow from a seed, which a failure prints; KHORUS_SHM_SEED repeats one. 125 of them,
// 3500 with KHORUS_TEST_SOAK=1.
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/conformance/plugin.h"
#include "tests/conformance/program.h"
#include "tests/conformance/shm_sums.h"
#include "tests/support/starvation.h"

namespace khorus::conformance {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr std::chrono::seconds kPatience{
    40};  // longer than the backend's own bound: not late, lost

// Works until something breaks; everything that it gets is checked.
int work(ShmRank& self, uint64_t seed) {
  Status status = self.member().connect();
  if (status.ok()) self.tell("ready");
  for (uint64_t round = 0; status.ok(); ++round) {
    const int size = self.member().size();
    status = run_program(self.member(), make_program(seed + round, size, 20, 1000 * round));
    if (status.ok()) status = large_sum(self.member());
    if (status.ok()) status = sum_in_an_arena(self.member(), 10);
  }
  return code_of(status.code());
}

// A data-loader child, which lives until the leash's other end is closed. It is through with its
// fork handlers when this returns.
pid_t fork_loader(int leash) {
  std::array<int, 2> running{};
  EXPECT_EQ(::pipe(running.data()), 0);
  const pid_t child = ::fork();
  ::close(running[child == 0 ? 0 : 1]);
  char byte = 0;
  if (child != 0) {
    EXPECT_EQ(::read(running[0], &byte, 1), 1);
    ::close(running[0]);
    return child;
  }
  ::prctl(PR_SET_PDEATHSIG, 0);
  if (::write(running[1], &byte, 1) != 1) std::_Exit(1);
  ::close(running[1]);
  const ssize_t ended = ::read(leash, &byte, 1);
  std::_Exit(ended == 0 ? 0 : 1);
}

// Nothing of ours is open or mapped in that process.
void expect_clean(pid_t process) {
  const fs::path folder = "/proc/" + std::to_string(process);
  std::error_code gone;
  for (const fs::directory_entry& fd : fs::directory_iterator(folder / "fd", gone)) {
    const std::string target = fs::read_symlink(fd.path(), gone).string();
    EXPECT_EQ(target.find("memfd:khorus"), std::string::npos) << target;
    EXPECT_EQ(target.find("eventfd"), std::string::npos) << target;
  }
  EXPECT_FALSE(gone) << gone.message();
  std::ifstream maps(folder / "maps");
  for (std::string line; std::getline(maps, line);) {
    EXPECT_EQ(line.find("memfd:khorus"), std::string::npos) << line;
  }
}

std::set<std::string> shared_memory_names() {
  std::set<std::string> names;
  std::error_code ignored;
  for (const fs::directory_entry& file : fs::directory_iterator("/dev/shm", ignored)) {
    if (file.path().string().find("khorus") != std::string::npos) names.insert(file.path());
  }
  return names;
}

// One rank is killed, or stopped, at some moment of its work; all others end by themselves.
void disturb_one(unsigned seed) {
  std::mt19937 random(seed);
  const int size = 2 + static_cast<int>(random() % 3);
  const int victim = static_cast<int>(random() % static_cast<unsigned>(size));
  const bool stop = random() % 8 == 0;
  const milliseconds delay(random() % 30);
  SCOPED_TRACE("seed " + std::to_string(seed) + ": rank " + std::to_string(victim) + " of " +
               std::to_string(size) + (stop ? " stopped " : " killed ") +
               std::to_string(delay.count()) + " ms after the start");
  std::array<int, 2> leash{};
  ASSERT_EQ(::pipe(leash.data()), 0);
  ShmRanks ranks({.size = size, .timeout_ms = stop ? kStopTimeoutMs : 30000}, [&](ShmRank& self) {
    ::close(leash[1]);
    return work(self, seed);
  });
  ::close(leash[0]);
  ranks.hand_out(ranks.collect_cards());
  for (int r = 0; r < size; ++r) ASSERT_EQ(ranks.word_from(r), "ready");
  // Nothing happens to wait for: the moment is what is random. It ends early if a rank ends.
  ranks.wait(victim, Clock::now() + delay);
  ranks.signal(victim, stop ? SIGSTOP : SIGKILL);
  const Clock::time_point disturbed = Clock::now();
  const milliseconds waited_before = test::waited_for_processors();
  bool timed_out = false;
  for (int r = 0; r < size; ++r) {
    if (r == victim) continue;
    const int code = ranks.wait(r, disturbed + kPatience);
    timed_out |= code == code_of(StatusCode::kTimeout);
    // Who is first to notice leaves, which the next may see instead.
    EXPECT_TRUE(code == code_of(StatusCode::kAborted) ||
                (stop && code == code_of(StatusCode::kTimeout)))
        << "rank " << r << " ended with " << code;
  }
  const Clock::duration took = Clock::now() - disturbed;
  const milliseconds starved = test::waited_for_processors() - waited_before;
  EXPECT_LT(took, kBound + starved + milliseconds(stop ? kStopTimeoutMs : 0));
  EXPECT_EQ(timed_out, stop);
  ::close(leash[1]);
}

TEST_F(Shm, KilledAndStoppedRanksAreErrorsForAllOthers) {
  const std::set<std::string> before = shared_memory_names();
  const unsigned moments = std::getenv("KHORUS_TEST_SOAK") != nullptr ? 3500 : 125;
  if (const char* seed = std::getenv("KHORUS_SHM_SEED")) {
    return disturb_one(static_cast<unsigned>(std::stoul(seed)));
  }
  for (unsigned seed = 1; seed <= moments && !HasFailure(); ++seed) disturb_one(seed);
  EXPECT_EQ(shared_memory_names(), before);
}

TEST_F(Shm, DataLoaderChildrenKeepNothing) {
  std::array<int, 2> leash{};
  ASSERT_EQ(::pipe(leash.data()), 0);
  ASSERT_EQ(::prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  std::vector<pid_t> loaders;
  {
    ShmRanks ranks({.size = 3}, [&](ShmRank& self) {
      ::close(leash[1]);
      EXPECT_TRUE(self.member().connect().ok());
      const std::shared_ptr<std::byte> arena = self.member().allocate(1 << 20);
      EXPECT_TRUE(sum_in_an_arena(self.member(), 3).ok());
      self.tell(std::to_string(fork_loader(leash[0])));
      Status status;
      while (status.ok()) status = large_sum(self.member());
      return code_of(status.code());
    });
    ::close(leash[0]);
    ranks.hand_out(ranks.collect_cards());
    for (int r = 0; r < 3; ++r) loaders.push_back(std::stoi(ranks.word_from(r)));
    for (const pid_t loader : loaders) expect_clean(loader);
    ranks.signal(1, SIGKILL);
    for (const int r : {0, 2}) {
      EXPECT_EQ(ranks.wait(r, Clock::now() + kBound), code_of(StatusCode::kAborted));
    }
  }
  ::close(leash[1]);
  for (const pid_t loader : loaders) {
    int status = 0;
    EXPECT_EQ(::waitpid(loader, &status, 0), loader);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
}

// Connects to the socket that a card names; -1 when its queue is full.
int knock(const std::string& card) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string name("\0khorus-", 8);
  for (size_t i = 0; i < 16; ++i) {
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", static_cast<unsigned char>(card[i]));
    name += digits.data();
  }
  std::copy(name.begin(), name.end(), address.sun_path);
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), length) == 0) return fd;
  EXPECT_EQ(errno, EAGAIN);
  ::close(fd);
  return -1;
}

// Says something that no rank would.
int stranger(const std::string& card, bool silent) {
  const int fd = knock(card);
  EXPECT_GE(fd, 0);
  const std::string garbage(48, 'x');
  if (!silent) {
    EXPECT_EQ(::send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL), 48);
  }
  return fd;
}

TEST_F(Shm, StrangersAreLeftOutside) {
  ShmRanks ranks({.size = 3}, [](ShmRank& self) {
    const Status status = self.member().connect();
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_TRUE(self.member().ping().ok());
    return 0;
  });
  const std::vector<std::string> cards = ranks.collect_cards();
  std::vector<int> strangers;
  for (const std::string& card : cards) {
    for (int i = 0; i < 40; ++i) strangers.push_back(stranger(card, i % 2 == 0));
  }
  ranks.hand_out(cards);
  for (int r = 0; r < 3; ++r) EXPECT_EQ(ranks.wait(r, Clock::now() + kBound), 0);
  for (const int fd : strangers) ::close(fd);
}

bool may_fill_queues() {
  rlimit files{};
  EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  return files.rlim_cur > 2 * SOMAXCONN;
}
// Strangers until no more are let into the queue.
std::vector<int> fill_queue(const std::string& card) {
  std::vector<int> strangers;
  for (int fd = knock(card); fd >= 0; fd = knock(card)) strangers.push_back(fd);
  return strangers;
}

TEST_F(Shm, AFullQueueIsWaitedFor) {
  if (!may_fill_queues()) GTEST_SKIP() << "this process may have too few files open";
  ShmRanks ranks({.size = 3}, [](ShmRank& self) {
    const Status status = self.member().connect();
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_TRUE(self.member().ping().ok());
    return 0;
  });
  const std::vector<std::string> cards = ranks.collect_cards();
  const std::vector<int> strangers = fill_queue(cards[0]);
  for (const int r : {2, 1, 0}) ranks.hand_out_to(r, cards);
  for (int r = 0; r < 3; ++r) EXPECT_EQ(ranks.wait(r, Clock::now() + kBound), 0);
  for (const int fd : strangers) ::close(fd);
}

TEST_F(Shm, AQueueThatStaysFullIsATimeout) {
  if (!may_fill_queues()) GTEST_SKIP() << "this process may have too few files open";
  ShmRanks ranks({.size = 2, .timeout_ms = kStopTimeoutMs}, [](ShmRank& self) {
    const Clock::time_point start = Clock::now();
    const Status status = self.member().connect();
    EXPECT_GE(Clock::now() - start, milliseconds(kStopTimeoutMs));
    EXPECT_EQ(status.lost_rank(), 2);  // rank 0 of the group, by its number in the job
    return code_of(status.code());
  });
  const std::vector<std::string> cards = ranks.collect_cards();
  const std::vector<int> strangers = fill_queue(cards[0]);
  ranks.hand_out_to(1, cards);  // and rank 0 never goes on
  EXPECT_EQ(ranks.wait(1, Clock::now() + kBound), code_of(StatusCode::kTimeout));
  for (const int fd : strangers) ::close(fd);
}

TEST_F(Shm, AnotherNetworkNamespaceIsAnotherHost) {
  ShmRanks ranks({.size = 2, .timeout_ms = kStopTimeoutMs}, [](ShmRank& self) {
    if (self.member().rank() == 1) self.tell(::unshare(CLONE_NEWNET) == 0 ? "moved" : "refused");
    const Status status = self.member().connect();
    if (self.member().rank() == 1) {
      EXPECT_NE(status.message().find("network namespace"), std::string::npos)
          << status.to_string();
    }
    return code_of(status.code());
  });
  if (ranks.word_from(1) != "moved") GTEST_SKIP() << "may not make a network namespace";
  ranks.hand_out(ranks.collect_cards());
  EXPECT_EQ(ranks.wait(1, Clock::now() + kBound), code_of(StatusCode::kUnavailable));
  EXPECT_EQ(ranks.wait(0, Clock::now() + kBound), code_of(StatusCode::kTimeout));
}

}  // namespace
}  // namespace khorus::conformance
