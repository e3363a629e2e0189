// Processes: the ranks of one group as processes of their own (rank_process.cc), whose engine the
// test plays. Used by one thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace khorus::conformance {

// Whatever is left of them is killed at the end.
class Processes {
 public:
  // `task`: see rank_process.cc.
  Processes(const std::string& backend, int size, const std::string& task);
  ~Processes();
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // One frame from everybody goes to everybody.
  void relay_exchange();
  std::string frame_from(size_t rank);
  pid_t pid(size_t rank) const { return pids_[rank]; }
  // SIGKILL, and waits.
  void kill(size_t rank);
  // The exit code, or -signal.
  int wait(size_t rank);

 private:
  void start(const std::string& backend, int rank, int size, const std::string& task);

  std::vector<pid_t> pids_;  // 0: has been waited for
  std::vector<int> sockets_;
};

}  // namespace khorus::conformance
