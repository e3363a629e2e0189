// ProcessRank: this test program as one rank of a world of processes.
//
// Started by mpirun with KHORUS_TEST_PROCESSES set, the program runs once per rank, and every copy
// goes through the same tests in the same order. A World then has one member here; its exchange
// goes through a store that rank 0's process serves until all ranks are through. Tests in which the
// ranks share memory or latches of the test are left out by a filter (CMakeLists.txt).
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/net/store.h"
#include "core/net/store_server.h"

namespace khorus::conformance {

class ProcessRank {
 public:
  // Null when the ranks are threads of this process.
  static ProcessRank* current();
  // As the process ends: rank 0 serves the store until every rank has come here.
  ~ProcessRank();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // Counts the worlds; all processes make them in one order.
  uint64_t next_world() { return ++worlds_; }
  // One round among `size` processes, of which this one is number `rank`. False when somebody does
  // not come.
  struct Round {
    std::string name;
    int rank;
    int size;
  };
  bool exchange(const Round& round, const std::string& bytes, std::vector<std::string>* all);

 private:
  ProcessRank();

  int rank_ = 0;
  int size_ = 1;
  std::atomic<uint64_t> worlds_{0};
  std::unique_ptr<net::StoreServer> server_;
  std::unique_ptr<net::Store> store_;
};

}  // namespace khorus::conformance
