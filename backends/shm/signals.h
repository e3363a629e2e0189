// Signals: how the ranks of a group tell each other how far they are, and wait for each other.
//
// Every rank owns a clock. It ticks as the rank goes through the collective operations, by as much
// on every rank, and what a tick means ("my part of piece 3 is in the staging area") is fixed by
// the operation (collectives.h). What is done by two ranks alone is counted in words of that pair.
// A rank writes only its own words. Peers' words are untrusted: they are compared, nothing else.
//
// Waiting is a short spin with yields, whose length adapts to whether that has helped lately and
// which is left out when there are more ranks than processors; then a futex on the word, bounded. A
// sleeper says first whom it waits for, so that who ticks makes a system call only for a sleeper.
// While it sleeps it looks a few times per second whether the peer's process still exists.
//
// Thread rule: one thread at a time, but leave() from any. Everything that waits throws Failure.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "backends/shm/interrupt.h"
#include "backends/shm/layout.h"

namespace khorus::backends::shm {

class Signals {
 public:
  struct Options {
    int rank = 0;
    std::chrono::milliseconds timeout{0};  // of one wait
    const Interrupt* interrupt = nullptr;
    std::function<bool(int peer)> process_ended;  // may be asked at any time
  };
  // `segments`: by rank; this rank's own is written to. They must outlive this.
  Signals(Options options, const Layout& layout, const std::vector<std::byte*>& segments);

  // Throws if this kernel or sandbox does not let threads sleep on shared memory. `word`: 0.
  static void try_futex(const std::byte* word);

  uint64_t now() const { return now_; }
  // Moves the own clock forward: what was written before is now visible to who waits for `tick`.
  void tick(uint64_t tick);
  // Until the peer's clock has reached `tick`.
  void wait(int peer, uint64_t tick);
  // The same for all peers.
  void wait_all(uint64_t tick);

  // For two ranks alone: one more piece is in the box for `peer`, or was taken out of its box for
  // this rank.
  void count_sent(int peer);
  void count_taken(int peer);
  // Until the peer has put, or taken, so many.
  void wait_sent(int peer, uint64_t pieces);
  void wait_taken(int peer, uint64_t pieces);

  // Throws if this rank was aborted.
  void check() const;
  // Tells everybody that this rank is through, for good or bad. What they have been told stays
  // true.
  void leave() noexcept;

 private:
  static constexpr uint64_t kGone = 1;

  size_t ranks() const { return segments_.size(); }
  Header& header(int rank) const;
  MailWords& mail(int owner, int other) const;
  void advance(Word& word, uint64_t by);
  void wake_sleepers(const Word& word) const;
  void await(int peer, const Word& word, uint64_t count);
  bool spin(const Word& word, uint64_t count);
  void sleep_on(int peer, const Word& word, uint64_t count,
                std::chrono::steady_clock::time_point end);

  const Options options_;
  const Layout layout_;
  const std::vector<std::byte*> segments_;
  uint64_t now_ = 0;
  std::vector<uint64_t> seen_;  // of every peer's clock: at least this
  const int most_spins_;
  int spins_;
};

}  // namespace khorus::backends::shm
