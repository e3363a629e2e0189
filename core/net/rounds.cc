// See rounds.h.
#include "core/net/rounds.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "core/net/text_bytes.h"

namespace khorus::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr const char* kRestarting = "rounds/restarting";
constexpr std::string_view kHere = "here";
constexpr std::string_view kVoid = "void";
constexpr std::string_view kEnded = "ended";

std::string rank_key(uint64_t round, int rank) {
  return round_key(round) + "/" + std::to_string(rank);
}

Result<bool> is_set(Store& store, const std::string& key) {
  const auto value = store.get(key, milliseconds(0));
  if (value.ok()) return true;
  if (value.status().code() == StatusCode::kTimeout) return false;
  return value.status();
}

// Nobody meets in `round` any more. Who is "here" stays so: it is void all the same, unless all
// were.
Status make_void(Store& store, uint64_t round, int size) {
  for (int rank = 0; rank < size; ++rank) {
    Status over = store.set(rank_key(round, rank), bytes_of(kVoid));
    if (!over.ok() && over.code() != StatusCode::kPermissionDenied) return over;
  }
  return Status();
}

// False: it had begun before. Whoever began it may have died before he made the one before void.
Result<bool> begin(Store& store, uint64_t round, const std::string& by, int size) {
  Status begun = store.set(round_key(round), bytes_of(by));
  if (!begun.ok() && begun.code() != StatusCode::kPermissionDenied) return begun;
  if (Status over = make_void(store, round - 1, size); !over.ok()) return over;
  return begun.ok();
}

Status did_not_come(const RoundSeeker& seeker, int rank) {
  return Status(StatusCode::kTimeout,
                "rank " + std::to_string(seeker.rank) + " waited " +
                    std::to_string(seeker.timeout.count() / 1000) + " s for rank " +
                    std::to_string(rank) +
                    " to meet again; the launcher restarts only ranks that end");
}

Status has_ended(const RoundSeeker& seeker, int rank) {
  return Status(StatusCode::kShutdown,
                "rank " + std::to_string(rank) + " has ended well, and rank " +
                    std::to_string(seeker.rank) + " cannot meet it again; end all ranks together");
}

// False: the round was over before all were there.
Result<bool> meet_in(Store& store, const RoundSeeker& seeker, uint64_t round,
                     steady_clock::time_point deadline) {
  Status noted = store.set(rank_key(round, seeker.rank), bytes_of(kHere));
  if (noted.code() == StatusCode::kPermissionDenied) return false;
  if (!noted.ok()) return noted;
  for (int rank = 0; rank < seeker.size; ++rank) {
    const auto value = store.get(rank_key(round, rank), left_until(deadline));
    if (value.status().code() == StatusCode::kTimeout) return did_not_come(seeker, rank);
    if (!value.ok()) return value.status();
    if (std::ranges::equal(*value, bytes_of(kEnded))) return has_ended(seeker, rank);
    if (std::ranges::equal(*value, bytes_of(kVoid))) return false;
  }
  return true;
}

}  // namespace

std::string round_key(uint64_t round) { return "rounds/" + std::to_string(round); }

Status allow_rounds(Store& store) { return store.set(kRestarting, bytes_of(kHere)); }

Result<uint64_t> begin_round(Store& store, uint64_t first, int size, const std::string& by) {
  for (uint64_t round = first;; ++round) {
    const Result<bool> begun = begin(store, round, by, size);
    if (!begun.ok()) return begun.status();
    if (*begun) return round;
  }
}

Status note_ended(Store& store, uint64_t round, int rank) {
  Status noted = store.set(rank_key(round, rank), bytes_of(kEnded));
  // The round was over before.
  return noted.code() == StatusCode::kPermissionDenied ? Status() : noted;
}

Result<bool> has_rounds(Store& store) { return is_set(store, kRestarting); }

Result<bool> has_begun(Store& store, uint64_t round) { return is_set(store, round_key(round)); }

Result<uint64_t> enter_round(Store& store, const RoundSeeker& seeker) {
  const auto deadline = steady_clock::now() + seeker.timeout;
  const std::string self = "rank " + std::to_string(seeker.rank);
  uint64_t round = seeker.first;
  for (;;) {
    for (;; ++round) {
      const Result<bool> is_over = has_begun(store, round + 1);
      if (!is_over.ok()) return is_over.status();
      if (!*is_over) break;
    }
    if (round > 0) {
      const Result<bool> begun = begin(store, round, self, seeker.size);
      if (!begun.ok()) return begun.status();
    }
    const Result<bool> met = meet_in(store, seeker, round, deadline);
    if (!met.ok()) return met.status();
    if (*met) return round;
    // The next round began before this one was void.
  }
}

}  // namespace khorus::net
