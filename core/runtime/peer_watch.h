// PeerWatch: whether this rank's neighbours on the same host are stopped.
//
// A process that is stopped (SIGSTOP, job control) keeps its connections open, so nothing but its
// state tells. It is lost when it was seen stopped at several looks in a row, all of them in time:
// a look that comes late says that this process did not run either (the whole job was stopped, or
// the machine), and the count begins anew. What a debugger holds, and what is merely slow, is
// alive.
//
// A dead process closes its connections and needs no watch; neighbours on other hosts are watched
// by heartbeats (net/tree_links.h).
//
// A value with the time as argument; one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace khorus::runtime {

class PeerWatch {
 public:
  using TimeUs = int64_t;
  static constexpr TimeUs kNever = std::numeric_limits<TimeUs>::max();
  // The state of a process, as ProcessStat; '?' when it cannot be told.
  using ReadState = std::function<char(int64_t pid)>;

  struct Peer {
    int rank = -1;
    int64_t pid = 0;
  };
  struct Lost {
    int rank = -1;
    std::string reason;
  };

  explicit PeerWatch(ReadState read_state);

  // Begins to watch. A stopped one is lost after at most `timeout_us`, 0: nobody is watched.
  void watch(const std::vector<Peer>& peers, TimeUs timeout_us, TimeUs now);
  // When look() is due.
  TimeUs next() const noexcept { return next_; }
  // Does nothing before it is due. Each peer is lost once.
  std::vector<Lost> look(TimeUs now);

 private:
  struct Watched {
    Peer peer;
    int seen_stopped = 0;  // looks in a row
  };
  const ReadState read_state_;
  std::vector<Watched> watched_;
  TimeUs interval_ = 0;
  TimeUs next_ = kNever;
};

}  // namespace khorus::runtime
