// See interrupt.h.
#include "backends/shm/interrupt.h"

#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <system_error>

namespace khorus::backends::shm {

Interrupt::Interrupt()
    : event_(Descriptor::make([] { return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); })) {
  if (!event_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

void Interrupt::raise() noexcept {
  word_.store(1, std::memory_order_seq_cst);
  ::syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  // Cannot fail in a way that matters: a counter that is full is readable, too.
  static_cast<void>(::eventfd_write(event_.get(), 1));
}

}  // namespace khorus::backends::shm
