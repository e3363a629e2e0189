// See processes.h.
#include "tests/conformance/processes.h"

#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "tests/conformance/framing.h"

extern char** environ;

namespace khorus::conformance {

Processes::Processes(const std::string& backend, int size, const std::string& task) {
  for (int r = 0; r < size; ++r) start(backend, r, size, task);
}

Processes::~Processes() {
  for (size_t i = 0; i < pids_.size(); ++i) {
    if (pids_[i] > 0) kill(i);
    ::close(sockets_[i]);
  }
}

void Processes::relay_exchange() {
  std::vector<std::string> frames;
  for (size_t i = 0; i < sockets_.size(); ++i) frames.push_back(frame_from(i));
  for (const int socket : sockets_) {
    for (const std::string& frame : frames) send_frame(socket, frame);
  }
}

std::string Processes::frame_from(size_t rank) {
  std::string frame;
  EXPECT_TRUE(receive_frame(sockets_[rank], frame)) << "rank " << rank << " is gone";
  return frame;
}

void Processes::kill(size_t rank) {
  ::kill(pids_[rank], SIGKILL);
  wait(rank);
}

int Processes::wait(size_t rank) {
  int status = 0;
  ::waitpid(pids_[rank], &status, 0);
  pids_[rank] = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void Processes::start(const std::string& backend, int rank, int size, const std::string& task) {
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

}  // namespace khorus::conformance
