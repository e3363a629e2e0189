// Watch: waits of an Asio io_context on a descriptor that somebody else owns.
//
// Asio's own descriptor class closes what it holds; this one lets go of it.
//
// Thread rule: the thread that runs the io_context.
#pragma once

#include <memory>
#include <utility>

#include "core/base/assert.h"
#include "core/net/asio.h"
#include "khorus/status.h"

namespace khorus::net {

class Watch {
 public:
  using What = asio::posix::stream_descriptor::wait_type;
  static constexpr What kRead = asio::posix::stream_descriptor::wait_read;
  static constexpr What kWrite = asio::posix::stream_descriptor::wait_write;

  explicit Watch(asio::io_context& io) : descriptor_(io) {}
  Watch(asio::io_context& io, int fd) : descriptor_(io) { assign(fd); }
  ~Watch() { release(); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  void assign(int fd) {
    ErrorCode error;
    descriptor_.assign(fd, error);
    KHORUS_ASSERT(!error, "epoll takes no more descriptors; raise fs.epoll.max_user_watches");
  }

  // One wait; `handler(ErrorCode)` runs in the io_context, with an error after release().
  template <class Handler>
  void wait(What what, Handler handler) {
    descriptor_.async_wait(what, std::move(handler));
  }

  auto executor() { return descriptor_.get_executor(); }

  // Ends the waits. To be called before the owner closes the descriptor. Idempotent.
  void release() noexcept {
    if (!descriptor_.is_open()) return;
    try {
      descriptor_.release();
    } catch (const boost::system::system_error&) {
      // Only "operation not supported", which Linux does not raise.
    }
  }

 private:
  asio::posix::stream_descriptor descriptor_;
};

// An io_context for one thread; Unavailable when the system has no descriptors left.
inline Result<std::unique_ptr<asio::io_context>> make_io_context() {
  try {
    return std::make_unique<asio::io_context>(1);
  } catch (const boost::system::system_error& error) {
    return Status(StatusCode::kUnavailable,
                  std::string("no event loop can be made: ") + error.what());
  }
}

}  // namespace khorus::net
