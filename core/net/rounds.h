// Rounds: how the ranks of a job whose launcher restarts them agree on when to meet again.
//
// Everything is in the job's store, where a key is set once and never changes:
//   rounds/restarting   set before the first rank runs: this launcher restarts ranks
//   rounds/K            from now on the round is K (1, 2, ...), begun by the launcher before it
//                       restarts a rank, or by the first rank whose engine of round K - 1 failed;
//                       the value says by whom, and why. Who still connects in round K - 1 leaves
//                       it (start_watch.h).
//   rounds/K/RANK       how RANK stands to round K: "here", set by the rank itself when it wants to
//                       meet the others; "void", set when round K + 1 has begun; or "ended", set by
//                       the launcher when the rank has ended well and will not come
// A round is met when all ranks are "here" in it. As keys do not change, all ranks see alike
// whether that is so, and go on to the next round together if it is not. The first round is 0.
//
// Thread rule: as the store's.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "core/net/store.h"

namespace khorus::net {

// The launcher's side. Before any rank runs.
Status allow_rounds(Store& store);
// Begins the first round from `first` (at least 1) on that has not begun yet, and returns it. `by`
// is for messages: "khorusrun, because rank 3 on node1 failed: exit code 1".
Result<uint64_t> begin_round(Store& store, uint64_t first, int size,
                             const std::string& by = "khorusrun");
// Who seeks to meet `rank` in `round`, which the caller has begun, learns that it is over.
Status note_ended(Store& store, uint64_t round, int rank);

// A rank's side.
struct RoundSeeker {
  int rank = 0;
  int size = 1;
  uint64_t first = 0;  // earlier rounds are over
  std::chrono::milliseconds timeout{0};
};

// Whether the launcher of this job restarts ranks.
Result<bool> has_rounds(Store& store);
// Whether round `round` has begun.
Result<bool> has_begun(Store& store, uint64_t round);
// The key that is there from its beginning on.
std::string round_key(uint64_t round);
// Blocks until all ranks are in one round, and returns it. Timeout says who did not come, Shutdown
// who has ended.
Result<uint64_t> enter_round(Store& store, const RoundSeeker& seeker);

}  // namespace khorus::net
