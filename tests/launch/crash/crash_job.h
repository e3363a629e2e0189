// The job that crash_test.cc strikes: ranks as processes of crash_worker, which this process meets
// through its own store and hears through pipes.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "core/net/job_key.h"
#include "core/net/store_server.h"

extern char** environ;

namespace khorus::test {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

class Pipe {
 public:
  Pipe() { EXPECT_EQ(pipe2(ends_.data(), O_CLOEXEC), 0); }
  ~Pipe() {
    close_read();
    close_write();
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  int read_end() const { return ends_[0]; }
  int write_end() const { return ends_[1]; }
  void close_read() { close_end(0); }
  void close_write() { close_end(1); }

 private:
  void close_end(size_t end) {
    if (ends_[end] >= 0) close(std::exchange(ends_[end], -1));
  }
  std::array<int, 2> ends_{-1, -1};
};

struct Rank {
  pid_t pid = -1;
  Pipe report;
  Pipe key;
  std::string said;
  bool ended = false;
  int exit_status = 0;
  Clock::time_point ended_at;
  Clock::time_point failed_at;  // when it said so

  bool has_said(const char* word) const { return said.find(word) != std::string::npos; }
};

// When the kill comes: so long after all are ready, or after the start; during endless work, or
// while a short job ends.
struct Plan {
  int size;
  int victim;
  bool from_start;
  milliseconds delay;
  int steps;
  unsigned seed;
  bool idle = false;  // after the steps the others wait in a barrier that the victim does not enter
};

inline std::string backend_of(unsigned seed) {
#if defined(KHORUS_CRASH_GLOO)
  if (seed % 4 == 0) return "gloo";
#endif
  return seed % 4 == 1 ? "auto" : "shm";
}

class Job {
 public:
  explicit Job(const Plan& plan) : plan_(plan), ranks_(static_cast<size_t>(plan.size)) {
    key_ = net::JobKey::generate().value();
    net::StoreServerOptions options;
    options.key = key_;
    options.job_id = "crash";
    store_ = net::StoreServer::start(options).value();
    for (size_t r = 0; r < ranks_.size(); ++r) start(r);
  }

  ~Job() {
    for (const Rank& rank : ranks_) {
      if (!rank.ended) kill(rank.pid, SIGKILL);
    }
    leash_.close_write();
    while (waitpid(-1, nullptr, 0) > 0) {
    }
  }

  Rank& rank(int r) { return ranks_[static_cast<size_t>(r)]; }
  std::vector<Rank>& ranks() { return ranks_; }

  // Until `done` or the test's patience is over.
  template <class Condition>
  bool wait_until(Condition&& done, Clock::time_point deadline) {
    while (!done()) {
      if (Clock::now() >= deadline) return false;
      listen(deadline);
    }
    return true;
  }

  bool all_ready() {
    for (const Rank& rank : ranks_) {
      if (!rank.has_said("ready\n")) return false;
    }
    return true;
  }
  bool all_ended() {
    for (const Rank& rank : ranks_) {
      if (!rank.ended) return false;
    }
    return true;
  }

  // Children of ranks, which are adopted by this process when their rank has ended. None may hold
  // a socket.
  void expect_children_without_sockets() {
    for (const std::filesystem::directory_entry& process :
         std::filesystem::directory_iterator("/proc")) {
      const std::string pid = process.path().filename();
      if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
      if (parent_of(pid) != getpid()) continue;
      std::error_code gone;
      for (const std::filesystem::directory_entry& fd :
           std::filesystem::directory_iterator(process.path() / "fd", gone)) {
        const std::string target = std::filesystem::read_symlink(fd.path(), gone).string();
        EXPECT_FALSE(target.starts_with("socket:") ||
                     target.find("memfd:khorus") != std::string::npos)
            << "the child " << pid << " keeps " << target;
      }
    }
  }

  // Lets the children go. True when nothing is left that was started here.
  bool end_children() {
    leash_.close_write();
    for (int status = 0;;) {
      const pid_t child = waitpid(-1, &status, 0);
      if (child < 0) return errno == ECHILD;
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "a data-loader child failed";
    }
  }

 private:
  void start(size_t r) {
    Rank& rank = ranks_[r];
    EXPECT_TRUE(key_.write_to_fd(rank.key.write_end()).ok());
    rank.key.close_write();
    std::vector<std::string> environment = environment_of(r);
    std::vector<char*> environment_pointers;
    for (std::string& variable : environment) environment_pointers.push_back(variable.data());
    environment_pointers.push_back(nullptr);
    std::vector<std::string> words = {KHORUS_CRASH_WORKER, std::to_string(leash_.read_end()),
                                      std::to_string(rank.report.write_end()),
                                      std::to_string(plan_.seed), std::to_string(plan_.steps)};
    if (plan_.idle) words.push_back(std::to_string(plan_.victim));
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    rank.pid = fork();
    ASSERT_GE(rank.pid, 0);
    if (rank.pid == 0) {
      for (const int inherited :
           {leash_.read_end(), rank.report.write_end(), rank.key.read_end()}) {
        fcntl(inherited, F_SETFD, 0);
      }
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      execve(KHORUS_CRASH_WORKER, arguments.data(), environment_pointers.data());
      _exit(127);
    }
    rank.report.close_write();
    rank.key.close_read();
  }

  std::vector<std::string> environment_of(size_t r) const {
    const std::string rank = std::to_string(r), size = std::to_string(plan_.size);
    std::vector<std::string> variables;
    for (char** variable = environ; *variable != nullptr; ++variable) {
      const std::string text = *variable;
      if (!text.starts_with("KHORUS_") && !text.starts_with("HOROVOD_")) variables.push_back(text);
    }
    for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
             {"RANK", rank},
             {"SIZE", size},
             {"LOCAL_RANK", rank},
             {"LOCAL_SIZE", size},
             {"CROSS_RANK", "0"},
             {"CROSS_SIZE", "1"},
             {"STORE", store_->address()},
             {"JOB_ID", "crash"},
             {"KEY_FD", std::to_string(ranks_[r].key.read_end())},
             {"CONTROL_FAN_IN", "2"},
             {"LOG_LEVEL", "fatal"},
             {"BACKEND", backend_of(plan_.seed)},
             {"START_TIMEOUT", plan_.from_start ? "3" : "30"}}) {
      variables.push_back("KHORUS_" + name + "=" + value);
    }
    return variables;
  }

  // Sleeps until a rank says something or ends.
  void listen(Clock::time_point deadline) {
    std::vector<pollfd> polls;
    std::vector<Rank*> heard;
    for (Rank& rank : ranks_) {
      if (rank.report.read_end() < 0) continue;
      polls.push_back({rank.report.read_end(), POLLIN, 0});
      heard.push_back(&rank);
    }
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
    poll(polls.data(), polls.size(), static_cast<int>(std::max<long>(left.count(), 0)));
    for (size_t i = 0; i < polls.size(); ++i) {
      if (polls[i].revents != 0) hear(*heard[i]);
    }
  }

  // The report ends when its rank does: nobody else holds the write end for long.
  void hear(Rank& rank) {
    std::array<char, 4096> text{};
    const ssize_t length = read(rank.report.read_end(), text.data(), text.size());
    if (length > 0) {
      const bool had_failed = rank.has_said("failed ");
      rank.said.append(text.data(), static_cast<size_t>(length));
      if (!had_failed && rank.has_said("failed ")) rank.failed_at = Clock::now();
      return;
    }
    rank.report.close_read();
    waitpid(rank.pid, &rank.exit_status, 0);
    rank.ended = true;
    rank.ended_at = Clock::now();
  }

  static pid_t parent_of(const std::string& pid) {
    std::ifstream file("/proc/" + pid + "/stat");
    std::string stat;
    std::getline(file, stat);
    const size_t end = stat.rfind(')');
    if (end == std::string::npos) return -1;
    std::istringstream rest(stat.substr(end + 1));
    char state = 0;
    pid_t parent = -1;
    rest >> state >> parent;
    return parent;
  }

  const Plan plan_;
  net::JobKey key_;
  std::unique_ptr<net::StoreServer> store_;
  Pipe leash_;
  std::vector<Rank> ranks_;
};

}  // namespace khorus::test
