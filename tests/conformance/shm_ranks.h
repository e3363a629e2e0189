// ShmRanks: the ranks of one group over the shm backend, each a child forked from the test, whose
// engine the test plays. Used by the test's only thread: it forks.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "tests/conformance/exchange_table.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {

// In a rank's process: its end of the group, and of the socket to the test.
class ShmRank {
 public:
  ShmRank(int rank, int socket, const WorldOptions& options);
  Member& member() { return member_; }
  void tell(const std::string& word) const;

 private:
  static int32_t exchange(void* engine, const char* tag, const void* bytes, size_t size,
                          void (*receive)(void*, int32_t, const void*, size_t), void* context,
                          khorus_error* error);
  const int socket_;
  const int size_;
  ExchangeTable unused_;
  Host host_;
  Member member_;
};

class ShmRanks {
 public:
  // What a rank does; the exit code of its process is what this returns, or 99 if an expectation
  // failed in it.
  using Body = std::function<int(ShmRank&)>;
  ShmRanks(const WorldOptions& options, const Body& body);
  ~ShmRanks();  // kills what is left
  ShmRanks(const ShmRanks&) = delete;
  ShmRanks& operator=(const ShmRanks&) = delete;

  int size() const { return static_cast<int>(pids_.size()); }
  // Everybody's cards, which go to everybody.
  std::vector<std::string> collect_cards();
  void hand_out(const std::vector<std::string>& cards);
  void hand_out_to(int rank, const std::vector<std::string>& cards);
  std::string word_from(int rank);
  void signal(int rank, int number);
  // The exit code, or -signal; -1000 if it did not end before the deadline.
  int wait(int rank, std::chrono::steady_clock::time_point deadline);

 private:
  std::vector<pid_t> pids_;  // 0: has been waited for
  std::vector<int> sockets_;
};

}  // namespace khorus::conformance
