// See peer_watch.h.
#include "core/runtime/peer_watch.h"

#include <utility>

namespace khorus::runtime {
namespace {

// With four looks per timeout, the third that sees it stopped comes within the timeout.
constexpr int kLooksPerTimeout = 4;
constexpr int kLooksUntilLost = 3;

}  // namespace

PeerWatch::PeerWatch(ReadState read_state) : read_state_(std::move(read_state)) {}

void PeerWatch::watch(const std::vector<Peer>& peers, TimeUs timeout_us, TimeUs now) {
  watched_.clear();
  for (const Peer& peer : peers) watched_.push_back({peer});
  interval_ = timeout_us / kLooksPerTimeout;
  next_ = watched_.empty() || interval_ <= 0 ? kNever : now + interval_;
}

std::vector<PeerWatch::Lost> PeerWatch::look(TimeUs now) {
  std::vector<Lost> lost;
  if (now < next_) return lost;
  const bool in_time = now - next_ <= interval_ / 2;
  next_ = now + interval_;
  for (Watched& watched : watched_) {
    const bool stopped = read_state_(watched.peer.pid) == 'T';
    watched.seen_stopped = stopped && in_time ? watched.seen_stopped + 1 : 0;
    if (watched.seen_stopped == kLooksUntilLost) {
      lost.push_back({watched.peer.rank,
                      "its process is stopped (SIGSTOP or job control); KHORUS_LIVENESS_TIMEOUT "
                      "says how long that may last"});
    }
  }
  return lost;
}

}  // namespace khorus::runtime
