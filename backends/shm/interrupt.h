// Interrupt: how abort() reaches the thread that waits, be it for a word in memory or for a socket.
//
// Thread rule: raise() from any thread; the rest from any, too.
#pragma once

#include <atomic>
#include <cstdint>

#include "backends/shm/descriptor.h"

namespace khorus::backends::shm {

class Interrupt {
 public:
  Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // Ends every wait, now and later. Idempotent.
  void raise() noexcept;
  bool raised() const noexcept { return word_.load(std::memory_order_acquire) != 0; }

  // For poll(2): readable once raised.
  int event() const noexcept { return event_.get(); }
  // For futex(2), private to the process: not 0 once raised.
  const std::atomic<uint32_t>& word() const noexcept { return word_; }

 private:
  std::atomic<uint32_t> word_{0};
  Descriptor event_;
};

}  // namespace khorus::backends::shm
