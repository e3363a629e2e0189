// See signals.h; futex(2), and for two words at once futex_waitv (Linux 5.16).
#include "backends/shm/signals.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <climits>
#include <system_error>
#include <utility>

#include "backends/shm/failure.h"
#include "core/base/timespec.h"

namespace khorus::backends::shm {
namespace {

using Clock = std::chrono::steady_clock;

// A round of spinning is some pauses and, so that a peer queued behind this thread on its core can
// run, a yield: about a microsecond. All rounds together take about as long as falling asleep and
// being woken does where it is slow, on virtual processors.
constexpr int kPauses = 20;
constexpr int kMostSpins = 200;
// How often a sleeper looks whether its peer's process is still there.
constexpr std::chrono::milliseconds kLook{100};

int spins_for(size_t ranks) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 0;
  return static_cast<size_t>(CPU_COUNT(&set)) < ranks ? 0 : kMostSpins;
}

// The kernel compares 32 bits: those that change first.
static_assert(std::endian::native == std::endian::little);
uint64_t futex_address(const void* word) { return reinterpret_cast<uintptr_t>(word); }

// Sleeps while the word has this value and nobody has interrupted, until `end`, or for no reason.
void futex_sleep(const std::atomic<uint64_t>& word, uint64_t value, const Interrupt& interrupt,
                 Clock::time_point end) {
  std::array<futex_waitv, 2> words{};
  words[0] = {
      .val = value & UINT32_MAX, .uaddr = futex_address(&word), .flags = FUTEX_32, .__reserved = 0};
  words[1] = {.val = 0,
              .uaddr = futex_address(&interrupt.word()),
              .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG,
              .__reserved = 0};
  const timespec until = base::as_timespec(end);
  const long woken =
      ::syscall(SYS_futex_waitv, words.data(), words.size(), 0, &until, CLOCK_MONOTONIC);
  if (woken >= 0 || errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT) return;
  // An older kernel, or a sandbox that does not know the call: an interrupt is then seen at `end`,
  // which is not far away. The timeout of FUTEX_WAIT_BITSET is an absolute time of the monotonic
  // clock.
  ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, static_cast<uint32_t>(value), &until, nullptr,
            FUTEX_BITSET_MATCH_ANY);
}

bool reached(uint64_t value, uint64_t count) { return value >> 1 >= count; }

}  // namespace

Signals::Signals(Options options, const Layout& layout, const std::vector<std::byte*>& segments)
    : options_(std::move(options)),
      layout_(layout),
      segments_(segments),
      seen_(segments.size(), 0),
      most_spins_(spins_for(segments.size())),
      spins_(most_spins_) {}

// The word is not what the sleeper expects, so it does not sleep.
void Signals::try_futex(const std::byte* word) {
  const timespec now{};
  const long slept =
      ::syscall(SYS_futex, word, FUTEX_WAIT_BITSET, 1U, &now, nullptr, FUTEX_BITSET_MATCH_ANY);
  if (slept == 0 || errno == EAGAIN) return;
  throw std::system_error(errno, std::generic_category(), "waiting for shared memory (futex)");
}

Header& Signals::header(int rank) const {
  return *reinterpret_cast<Header*>(segments_[static_cast<size_t>(rank)] + Layout::header());
}
MailWords& Signals::mail(int owner, int other) const {
  return *reinterpret_cast<MailWords*>(segments_[static_cast<size_t>(owner)] + layout_.mail(other));
}

void Signals::tick(uint64_t tick) {
  advance(header(options_.rank).clock, tick - now_);
  now_ = tick;
}

// An addition, because another thread may set the bit kGone. Sequentially consistent, as is the
// sleeper's announcement: one of the two sees the other.
void Signals::advance(Word& word, uint64_t by) {
  word.value.fetch_add(by << 1, std::memory_order_seq_cst);
  wake_sleepers(word);
}

void Signals::wake_sleepers(const Word& word) const {
  const uint64_t me = static_cast<uint64_t>(options_.rank) + 1;
  for (size_t peer = 0; peer < ranks(); ++peer) {
    const Word& waits_for = header(static_cast<int>(peer)).waits_for;
    if (waits_for.value.load(std::memory_order_seq_cst) != me) continue;
    ::syscall(SYS_futex, &word.value, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    return;
  }
}

void Signals::wait(int peer, uint64_t tick) {
  uint64_t& seen = seen_[static_cast<size_t>(peer)];
  if (seen >= tick) return;
  const Word& clock = header(peer).clock;
  await(peer, clock, tick);
  seen = clock.value.load(std::memory_order_acquire) >> 1;
}

void Signals::wait_all(uint64_t tick) {
  for (size_t i = 1; i < ranks(); ++i) {
    wait(static_cast<int>((static_cast<size_t>(options_.rank) + i) % ranks()), tick);
  }
}

void Signals::count_sent(int peer) { advance(mail(options_.rank, peer).sent, 1); }
void Signals::count_taken(int peer) { advance(mail(options_.rank, peer).taken, 1); }
void Signals::wait_sent(int peer, uint64_t pieces) {
  await(peer, mail(peer, options_.rank).sent, pieces);
}
void Signals::wait_taken(int peer, uint64_t pieces) {
  await(peer, mail(peer, options_.rank).taken, pieces);
}

void Signals::check() const {
  if (options_.interrupt->raised()) {
    throw Failure(Failure::Cause::kInterrupted, -1, "aborted");
  }
}

void Signals::await(int peer, const Word& word, uint64_t count) {
  check();
  if (reached(word.value.load(std::memory_order_acquire), count) || spin(word, count)) return;
  const Clock::time_point give_up = Clock::now() + options_.timeout;
  while (true) {
    const Clock::time_point now = Clock::now();
    sleep_on(peer, word, count, std::min(give_up, now + kLook));
    check();
    // In this order: what a peer has published before it left, or ended, is there.
    const bool ended = options_.process_ended(peer);
    const uint64_t value = word.value.load(std::memory_order_acquire);
    if (reached(value, count)) return;
    if (ended || (value & kGone) != 0) {
      throw Failure(Failure::Cause::kGone, peer,
                    ended ? "its process has ended" : "it has left the group");
    }
    if (Clock::now() >= give_up) throw Failure(Failure::Cause::kTimeout, peer, "silent");
  }
}

bool Signals::spin(const Word& word, uint64_t count) {
  for (int i = 0; i < spins_; ++i) {
    for (int pause = 0; pause < kPauses; ++pause) {
      _mm_pause();
      if (!reached(word.value.load(std::memory_order_acquire), count)) continue;
      spins_ = std::min(most_spins_, 2 * spins_);
      return true;
    }
    ::sched_yield();
  }
  // Never down to none: otherwise it could not find out that spinning pays again.
  spins_ = std::min(most_spins_, std::max(spins_ / 2, kMostSpins / 32));
  return false;
}

void Signals::sleep_on(int peer, const Word& word, uint64_t count, Clock::time_point end) {
  std::atomic<uint64_t>& waits_for = header(options_.rank).waits_for.value;
  waits_for.store(static_cast<uint64_t>(peer) + 1, std::memory_order_seq_cst);
  const uint64_t value = word.value.load(std::memory_order_seq_cst);
  if (!reached(value, count) && (value & kGone) == 0) {
    futex_sleep(word.value, value, *options_.interrupt, end);
  }
  waits_for.store(0, std::memory_order_relaxed);
}

void Signals::leave() noexcept {
  const auto mark = [&](Word& word) {
    word.value.fetch_or(kGone, std::memory_order_seq_cst);
    wake_sleepers(word);
  };
  mark(header(options_.rank).clock);
  for (size_t peer = 0; peer < ranks(); ++peer) {
    MailWords& words = mail(options_.rank, static_cast<int>(peer));
    mark(words.sent);
    mark(words.taken);
  }
}

}  // namespace khorus::backends::shm
