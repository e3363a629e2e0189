// Ended ranks: how those who wait at the start of a job learn that a rank will not come.
//
// Everything is in the job's store, where a key is set once and never changes:
//   ended/told   set by khorusrun before the first rank runs: it tells which ranks have ended
//   ended/N      the N-th rank that ended and is not started again (0, 1, ...): three lines that
//                say which, where it ran, and how it ended
// In the jobs of other launchers, ranks of one machine watch each other (start_watch.h):
//   process/EPOCH/RANK   which process the rank is; who sees its end tells it, as khorusrun would
//
// Thread rule: as the store's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "core/net/store.h"

namespace khorus::net {

struct EndedRank {
  int rank = -1;
  std::string where;  // "node1 (pid 4711)"
  std::string how;    // "killed by signal 9 (SIGKILL)"
};

// The launcher's side. Before any rank runs.
Status promise_ends(Store& store);
Result<bool> are_ends_promised(Store& store);

// For all to know, as number `*next` or the first after it that is free; `*next` is then the one
// behind.
Status tell_end(Store& store, uint64_t* next, const EndedRank& ended);
std::string ended_key(uint64_t number);
// Nothing: it is no such entry. Texts come without what would write to somebody's terminal.
std::optional<EndedRank> decode_ended_rank(std::span<const std::byte> value);

std::string process_key(uint64_t epoch, int rank);

}  // namespace khorus::net
