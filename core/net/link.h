// Link: a Connection that an Asio io_context watches: frames come in by themselves, what the kernel
// did not take goes out by itself.
//
// Made by make_shared; the io_context's pending waits keep it alive until close() or the end of the
// connection.
//
// Thread rule: the thread that runs the io_context.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/net/asio.h"
#include "core/net/connection.h"
#include "core/net/watch.h"

namespace khorus::net {

class Link : public std::enable_shared_from_this<Link> {
 public:
  struct Events {
    std::function<void(std::span<const std::byte> payload)> on_frame;
    // Once, and then nothing more; not after close().
    std::function<void(const std::string& reason)> on_closed;
  };

  Link(asio::io_context& io, Connection connection, Events events);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  void start();
  // Tries to write at once. A failure shows later, in on_closed, after what can still be received.
  void send(std::span<const std::byte> payload);
  bool has_unsent() const noexcept { return open_ && connection_.has_unsent(); }
  bool is_open() const noexcept { return open_; }

  // Whether the peer's address is one of this host.
  bool is_within_host() { return connection_.socket().is_within_host(); }
  // Ends it as if the connection had ended; on_closed is called.
  void fail(const std::string& reason) { end(reason); }
  void close() noexcept;
  void close_gracefully(std::chrono::milliseconds limit) noexcept;

 private:
  void wait_readable();
  void wait_writable();
  void on_readable();
  void on_writable();
  void fail_later(const Status& status);
  void end(const std::string& reason);

  Watch watch_;
  Connection connection_;
  Events events_;
  bool open_ = true;
  bool waits_writable_ = false;
  std::string send_failure_;  // nothing more is sent
};

}  // namespace khorus::net
