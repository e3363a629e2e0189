// See shm_ranks.h.
#include "tests/conformance/shm_ranks.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "tests/conformance/framing.h"
#include "tests/conformance/plugin.h"

namespace khorus::conformance {

ShmRank::ShmRank(int rank, int socket, const WorldOptions& options)
    : socket_(socket),
      size_(options.size),
      unused_(options.size),
      host_(unused_, rank),
      member_(*find_backend("shm"), host_, options) {
  // Nobody calls the host before connect().
  host_.c.engine = this;
  host_.c.exchange = exchange;
}

void ShmRank::tell(const std::string& word) const { send_frame(socket_, word); }

int32_t ShmRank::exchange(void* engine, const char*, const void* bytes, size_t size,
                          void (*receive)(void*, int32_t, const void*, size_t), void* context,
                          khorus_error* error) {
  const ShmRank& self = *static_cast<const ShmRank*>(engine);
  send_frame(self.socket_, std::string(static_cast<const char*>(bytes), size));
  for (int r = 0; r < self.size_; ++r) {
    std::string frame;
    if (!receive_frame(self.socket_, frame)) {
      error->code = static_cast<int32_t>(StatusCode::kAborted);
      std::snprintf(error->message, sizeof(error->message), "the test is gone");
      return error->code;
    }
    receive(context, r, frame.data(), frame.size());
  }
  return 0;
}

ShmRanks::ShmRanks(const WorldOptions& options, const Body& body) {
  for (int rank = 0; rank < options.size; ++rank) {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (const int theirs : sockets_) ::close(theirs);
      ::close(ends[0]);
      int code = 0;
      {
        ShmRank self(rank, ends[1], options);
        code = body(self);
      }
      std::_Exit(::testing::Test::HasFailure() ? 99 : code);
    }
    ::close(ends[1]);
    pids_.push_back(pid);
    sockets_.push_back(ends[0]);
  }
}

ShmRanks::~ShmRanks() {
  for (size_t i = 0; i < pids_.size(); ++i) {
    if (pids_[i] > 0) {
      ::kill(pids_[i], SIGKILL);
      ::waitpid(pids_[i], nullptr, 0);
    }
    ::close(sockets_[i]);
  }
}

std::vector<std::string> ShmRanks::collect_cards() {
  std::vector<std::string> cards;
  for (int r = 0; r < size(); ++r) cards.push_back(word_from(r));
  return cards;
}

void ShmRanks::hand_out(const std::vector<std::string>& cards) {
  for (int r = 0; r < size(); ++r) hand_out_to(r, cards);
}

void ShmRanks::hand_out_to(int rank, const std::vector<std::string>& cards) {
  for (const std::string& card : cards) send_frame(sockets_[static_cast<size_t>(rank)], card);
}

std::string ShmRanks::word_from(int rank) {
  std::string word;
  EXPECT_TRUE(receive_frame(sockets_[static_cast<size_t>(rank)], word)) << rank << " is gone";
  return word;
}

void ShmRanks::signal(int rank, int number) { ::kill(pids_[static_cast<size_t>(rank)], number); }

int ShmRanks::wait(int rank, std::chrono::steady_clock::time_point deadline) {
  pid_t& pid = pids_[static_cast<size_t>(rank)];
  const int process = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  pollfd poll{process, POLLIN, 0};
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  const int ended = ::poll(&poll, 1, static_cast<int>(std::max<long>(left.count(), 0)));
  ::close(process);
  if (ended != 1) return -1000;
  int status = 0;
  ::waitpid(std::exchange(pid, 0), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace khorus::conformance
