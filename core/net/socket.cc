// See socket.h.
#include "core/net/socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/base/fork_guard.h"

namespace khorus::net {
namespace {

Status system_error(const std::string& what) {
  return Status(StatusCode::kUnavailable, what + ": " + std::strerror(errno));
}

Socket::Transfer failed_transfer() {
  if (errno == EAGAIN || errno == EWOULDBLOCK) return {};
  // The two ways in which a peer's end shows on our writing side.
  if (errno == EPIPE || errno == ECONNRESET) {
    return {Socket::Transfer::Kind::kOver, 0, "connection reset by peer"};
  }
  return {Socket::Transfer::Kind::kOver, 0, std::strerror(errno)};
}

// False when the fork guard cannot hold the descriptor, which is then closed.
bool guard(int fd, const base::ForkLock& lock) {
  if (base::fork_guard_add(fd, lock)) return true;
  ::close(fd);
  errno = EMFILE;
  return false;
}

void set_no_delay(int fd) {
  // Control frames are small and each is waited for. A socket that refuses is only slower.
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

Result<Socket> Socket::make(int family) {
  const base::ForkLock lock;
  const int fd = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || !guard(fd, lock)) return system_error("no socket can be made");
  return Socket(fd);
}

Result<Socket> Socket::listen(const Address& address) {
  Result<Socket> made = make(address.family());
  if (!made.ok()) return made;
  // A port that was asked for may be in use by connections that are over (TIME_WAIT); a listener
  // that lives still keeps it.
  const int on = 1;
  if (address.port() != 0) ::setsockopt(made->fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(made->fd_, address.get(), address.length) != 0 ||
      ::listen(made->fd_, SOMAXCONN) != 0) {
    return system_error("cannot listen on " + address.to_string());
  }
  return made;
}

Result<Socket> Socket::start_connect(const Address& peer) {
  Result<Socket> made = make(peer.family());
  if (!made.ok()) return made;
  set_no_delay(made->fd_);
  if (::connect(made->fd_, peer.get(), peer.length) != 0 && errno != EINPROGRESS &&
      errno != EINTR) {
    return system_error("cannot connect to " + peer.to_string());
  }
  return made;
}

Status Socket::connect_result(const Address& peer) const {
  int error = 0;
  socklen_t length = sizeof error;
  if (::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  if (error == 0) return {};
  errno = error;
  return system_error("cannot connect to " + peer.to_string());
}

Result<std::optional<Socket>> Socket::accept() {
  for (;;) {
    const base::ForkLock lock;
    const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      if (!guard(fd, lock)) return system_error("no descriptor for a connection");
      set_no_delay(fd);
      return std::optional<Socket>(Socket(fd));
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::optional<Socket>();
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM ||
        errno == EBADF || errno == EINVAL) {
      return system_error("no connection can be accepted");
    }
    // Anything else is the fault of that one connection, which is gone: take the next.
  }
}

Socket::Transfer Socket::read_some(std::span<std::byte> bytes) {
  for (;;) {
    const ssize_t n = ::recv(fd_, bytes.data(), bytes.size(), 0);
    if (n > 0) return {Transfer::Kind::kDone, static_cast<size_t>(n), {}};
    if (n == 0) return {Transfer::Kind::kOver, 0, "closed the connection"};
    if (errno != EINTR) return failed_transfer();
  }
}

Socket::Transfer Socket::write_some(std::span<const std::byte> first,
                                    std::span<const std::byte> second) {
  iovec parts[2] = {{const_cast<std::byte*>(first.data()), first.size()},
                    {const_cast<std::byte*>(second.data()), second.size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = second.empty() ? 1 : 2;
  for (;;) {
    const ssize_t n = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (n >= 0) return {Transfer::Kind::kDone, static_cast<size_t>(n), {}};
    if (errno != EINTR) return failed_transfer();
  }
}

Address Socket::local_address() const {
  Address address;
  address.length = sizeof address.storage;
  if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&address.storage), &address.length) != 0) {
    address.length = 0;
  }
  return address;
}

bool Socket::is_within_host() const {
  const Address local = local_address();
  Address peer;
  peer.length = sizeof peer.storage;
  if (::getpeername(fd_, reinterpret_cast<sockaddr*>(&peer.storage), &peer.length) != 0) {
    return false;
  }
  return local.length > 0 && local.host() == peer.host();
}

void Socket::close() noexcept {
  if (fd_ < 0) return;
  const base::ForkLock lock;
  base::fork_guard_remove(fd_, lock);
  ::close(std::exchange(fd_, -1));
}

void Socket::close_gracefully(std::chrono::milliseconds limit) noexcept {
  if (fd_ < 0) return;
  // Unread bytes would turn the close into a reset, which may overtake what was written.
  ::shutdown(fd_, SHUT_WR);
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::byte unread[4096];
  while (::recv(fd_, unread, sizeof unread, 0) > 0 && std::chrono::steady_clock::now() < deadline) {
  }
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(limit).count();
  const linger wait{1, static_cast<int>(std::clamp<int64_t>(seconds, 1, 60))};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &wait, sizeof wait);
  // Not under the fork lock: this close may wait. The number is removed first, and a fork in
  // between leaves the child a socket that is already shut down.
  {
    const base::ForkLock lock;
    base::fork_guard_remove(fd_, lock);
  }
  ::close(std::exchange(fd_, -1));
}

}  // namespace khorus::net
