// Fork guard: descriptors that a forked child must not keep.
//
// A data-loader worker is forked without exec and lives on; if it kept our sockets open, peers
// would not see the end of this process. Every socket is therefore registered here, and a
// pthread_atfork handler replaces each registered descriptor by /dev/null in the child. The number
// stays taken, so that the child's copies of owning objects can close it without closing a
// stranger's descriptor. A number that was closed without a word here (a library may close its own
// socket on an error) and stands for something else by now is left alone.
//
// This registry is the one piece of process-wide state in core: fork() acts on the whole process,
// and a fork handler has no argument through which it could find an engine. It holds descriptor
// numbers, inode numbers and a counter only, in fixed atomics, so that the handler allocates
// nothing and takes no lock but its own. Backends that open sockets use it too (each plugin links
// its own copy).
//
// Thread rule: every function from any thread.
#pragma once

#include <cstdint>
#include <mutex>

namespace khorus::base {

// Held while a descriptor is made and registered, or removed and closed, so that no fork() falls
// in between. Hold it for a few system calls that do not block, and do not fork under it.
class [[nodiscard]] ForkLock {
 public:
  ForkLock();
  ~ForkLock() = default;

 private:
  std::unique_lock<std::mutex> lock_;
};

// REQUIRES for both: a ForkLock is held by this thread.
// False: the number is beyond what the registry holds (2^20); refuse the descriptor then.
bool fork_guard_add(int fd, const ForkLock& lock) noexcept;
void fork_guard_remove(int fd, const ForkLock& lock) noexcept;

// Counts the forks between the first process and this one, from the first ForkLock on. An object
// that remembers it knows, by comparing, whether it is in the process that made it.
uint64_t fork_generation() noexcept;

}  // namespace khorus::base
