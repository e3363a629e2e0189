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

// How ranks find the hub of their group. Rank 0 publishes it under a random key that the exchange
// carries; the others look the key up. The table is per process, like the hubs in it: a key from
// another process is not found, and a hub whose rank 0 has gone is not either. (A bare pointer
// could do neither: nobody can tell whether what it points at is still there.)
struct HubKey {
  uint64_t words[2];
  bool operator<(const HubKey& other) const;
};
HubKey publish(const std::shared_ptr<Hub>& hub);
std::shared_ptr<Hub> find(const HubKey& key);  // null: not in this process, or gone

}  // namespace khorus::backends::local
