// See fork_guard.h. The registry is a bitmap indexed by descriptor number, and beside it what each
// descriptor was, so that the child leaves alone a number that meanwhile means something else.
#include "core/base/fork_guard.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>

#include "core/base/assert.h"

namespace khorus::base {
namespace {

constexpr int kMaxDescriptors = 1 << 20;
constexpr size_t kBits = 64;

struct Registry {
  std::mutex mutex;
  std::array<std::atomic<uint64_t>, kMaxDescriptors / kBits> words{};
  std::array<std::atomic<uint64_t>, kMaxDescriptors> identities{};  // pages unused stay untouched
  std::atomic<size_t> words_used{0};                                // words beyond are all zero
  std::atomic<uint64_t> generation{0};
};
constinit Registry g_registry;

void before_fork() { g_registry.mutex.lock(); }
void after_fork_in_parent() { g_registry.mutex.unlock(); }

// Differs between any two open sockets or files, and is the same for all descriptors of one.
uint64_t identity_of(int fd) noexcept {
  struct stat status {};
  if (::fstat(fd, &status) != 0) return 0;
  return (uint64_t{status.st_dev} << 48) ^ uint64_t { status.st_ino };
}

void disown(int fd, int null_fd) noexcept {
  const auto known = g_registry.identities[static_cast<size_t>(fd)].load(std::memory_order_relaxed);
  if (identity_of(fd) != known) return;  // closed behind our back, perhaps opened anew by others
  if (null_fd < 0 || ::dup3(null_fd, fd, O_CLOEXEC) < 0) ::close(fd);
}

// Only async-signal-safe calls: another thread may have held any lock at the time of the fork.
void after_fork_in_child() {
  const int null_fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const size_t used = g_registry.words_used.load(std::memory_order_relaxed);
  for (size_t i = 0; i < used; ++i) {
    uint64_t word = g_registry.words[i].exchange(0, std::memory_order_relaxed);
    for (; word != 0; word &= word - 1) {
      disown(static_cast<int>(i * kBits) + std::countr_zero(word), null_fd);
    }
  }
  if (null_fd >= 0) ::close(null_fd);
  g_registry.generation.fetch_add(1, std::memory_order_relaxed);
  g_registry.mutex.unlock();
}

void install_handlers() {
  static const int error =
      ::pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child);
  KHORUS_ASSERT(error == 0, "pthread_atfork has no memory for three function pointers");
}

}  // namespace

ForkLock::ForkLock() {
  install_handlers();
  lock_ = std::unique_lock<std::mutex>(g_registry.mutex);
}

bool fork_guard_add(int fd, const ForkLock&) noexcept {
  if (fd < 0 || fd >= kMaxDescriptors) return false;
  const size_t index = static_cast<size_t>(fd) / kBits;
  g_registry.identities[static_cast<size_t>(fd)].store(identity_of(fd), std::memory_order_relaxed);
  g_registry.words[index].fetch_or(uint64_t{1} << (static_cast<size_t>(fd) % kBits),
                                   std::memory_order_relaxed);
  if (g_registry.words_used.load(std::memory_order_relaxed) <= index) {
    g_registry.words_used.store(index + 1, std::memory_order_relaxed);
  }
  return true;
}

void fork_guard_remove(int fd, const ForkLock&) noexcept {
  if (fd < 0 || fd >= kMaxDescriptors) return;
  const size_t index = static_cast<size_t>(fd) / kBits;
  g_registry.words[index].fetch_and(~(uint64_t{1} << (static_cast<size_t>(fd) % kBits)),
                                    std::memory_order_relaxed);
}

uint64_t fork_generation() noexcept {
  return g_registry.generation.load(std::memory_order_relaxed);
}

}  // namespace khorus::base
