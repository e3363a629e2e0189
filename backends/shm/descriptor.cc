// See descriptor.h.
#include "backends/shm/descriptor.h"

#include <unistd.h>

#include <cerrno>

#include "core/base/fork_guard.h"

namespace khorus::backends::shm {

int Descriptor::guarded(int (*call)(void*), void* open) {
  const base::ForkLock lock;
  const int fd = call(open);
  if (fd < 0) return -1;
  if (base::fork_guard_add(fd, lock)) return fd;
  ::close(fd);
  errno = EMFILE;
  return -1;
}

void Descriptor::reset() noexcept {
  if (fd_ < 0) return;
  const base::ForkLock lock;
  base::fork_guard_remove(fd_, lock);
  ::close(std::exchange(fd_, -1));
}

}  // namespace khorus::backends::shm
