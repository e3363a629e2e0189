// ExchangeTable: host->exchange for ranks that are threads of the test, or processes of one
// (process_rank.h).
//
// Plays the engine's part of the contract: an all-to-all of a few bytes, which a rank can be cut
// off from (abort()). Thread-safe; one exchange at a time.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "khorus/backend.h"
#include "tests/conformance/process_rank.h"

namespace khorus::conformance {

class ExchangeTable {
 public:
  explicit ExchangeTable(int size);

  // Blocks until every rank has come with the same tag. False if abort() came first.
  bool exchange(int rank, const std::string& tag, std::string bytes, std::vector<std::string>& all);
  // Makes every blocked and later exchange fail.
  void abort();
  // Blocks until `count` ranks wait in an exchange.
  void wait_for_arrivals(size_t count);
  // What `rank` brought last.
  std::string bytes_of(int rank);

 private:
  ProcessRank* const process_;
  const std::string name_;  // of this table among those of all processes
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> bytes_;
  std::vector<std::string> result_;
  std::string tag_;
  size_t arrived_ = 0;
  uint64_t round_ = 0;
  bool aborted_ = false;
};

// The khorus_host of one rank.
struct Host {
  Host(ExchangeTable& exchange_table, int rank_in_group);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  ExchangeTable& table;
  const int rank;
  khorus_host c;
};

}  // namespace khorus::conformance
