// Hub: the ranks of one group, threads of one process, and the meetings they hold.
//
// Touched by the threads of all ranks; thread-safe. Collectives are held in one Meeting of all
// ranks; every two ranks that send to each other have one of their own, so that pairs are
// independent of each other and of ranks that have left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "backends/local/meeting.h"
#include "khorus/status.h"

namespace khorus::backends::local {

class Hub {
 public:
  // `global_ranks`: of the group's members, for messages.
  explicit Hub(const std::vector<int32_t>& global_ranks);
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  // The meeting of all ranks; a rank's place is its rank in the group.
  Meeting& all() { return all_; }
  // That of two ranks of the group; the place of the lower one is 0. Lives as long as the hub.
  Meeting& pair(size_t lower, size_t higher);

  // Nobody can count on `rank` (in the group) any more: ends every meeting it belongs to.
  void break_off(size_t rank, const Status& status);
  // Ends every meeting.
  void fail(const Status& status);

 private:
  const std::vector<int32_t> global_ranks_;
  Meeting all_;
  std::mutex mutex_;
  std::map<std::pair<size_t, size_t>, std::unique_ptr<Meeting>> pairs_;  // made when first used
  std::vector<Status> broken_off_;                                       // by rank; ok: is there
};

}  // namespace khorus::backends::local
