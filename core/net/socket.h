// Socket: a non-blocking TCP socket by plain system calls, closed on exec and in forked children.
//
// A resource: movable handle, one owner. No call blocks, except close_gracefully(), which says how
// long.
//
// Thread rule: one thread at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "core/net/address.h"
#include "khorus/status.h"

namespace khorus::net {

class Socket {
 public:
  // What one read or write did.
  struct Transfer {
    enum class Kind : uint8_t { kDone, kWouldBlock, kOver } kind = Kind::kWouldBlock;
    size_t bytes = 0;
    std::string reason;  // kOver: "closed the connection", "connection reset by peer"
  };

  Socket() = default;
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept;

  // Listens; port 0 chooses a free one.
  static Result<Socket> listen(const Address& address);
  // Begins to connect. Once the socket is writable, connect_result() tells how it went.
  static Result<Socket> start_connect(const Address& peer);
  Status connect_result(const Address& peer) const;
  // The next connection of a listening socket; nothing when none waits; an error when the system
  // cannot give a descriptor.
  Result<std::optional<Socket>> accept();

  Transfer read_some(std::span<std::byte> bytes);
  // Both parts in one system call.
  Transfer write_some(std::span<const std::byte> first, std::span<const std::byte> second = {});

  Address local_address() const;
  // Whether both ends have one address: then no network lies between. False where it cannot be
  // told.
  bool is_within_host() const;
  int fd() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }

  void close() noexcept;
  // Waits until the peer's kernel has everything that was written, at most `limit`.
  void close_gracefully(std::chrono::milliseconds limit) noexcept;

 private:
  explicit Socket(int fd) noexcept : fd_(fd) {}
  static Result<Socket> make(int family);

  int fd_ = -1;
};

}  // namespace khorus::net
