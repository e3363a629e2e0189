// See peer_socket.h.
#include "backends/gloo/peer_socket.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/base/fork_guard.h"

namespace khorus::backends::gloo {
namespace {

bool same_name(const SocketName& a, const SocketName& b) {
  if (a.ss_family != b.ss_family) return false;
  if (a.ss_family == AF_INET) {
    const auto& x = reinterpret_cast<const sockaddr_in&>(a);
    const auto& y = reinterpret_cast<const sockaddr_in&>(b);
    return x.sin_port == y.sin_port && x.sin_addr.s_addr == y.sin_addr.s_addr;
  }
  if (a.ss_family == AF_INET6) {
    const auto& x = reinterpret_cast<const sockaddr_in6&>(a);
    const auto& y = reinterpret_cast<const sockaddr_in6&>(b);
    return x.sin6_port == y.sin6_port &&
           std::memcmp(&x.sin6_addr, &y.sin6_addr, sizeof(x.sin6_addr)) == 0;
  }
  return false;
}

// False: not a connected socket.
bool names_of(int fd, SocketName& local, SocketName& remote) {
  socklen_t length = sizeof(local);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&local), &length) != 0) return false;
  length = sizeof(remote);
  // Not getpeername(): here that one names peers that are gone, too (peer_name.cc).
  return ::syscall(SYS_getpeername, fd, &remote, &length) == 0;
}

bool is_end_of(int fd, const ListeningNames& pair) {
  SocketName local{};
  SocketName remote{};
  return names_of(fd, local, remote) &&
         (same_name(local, pair.mine) || same_name(remote, pair.theirs));
}

ino_t inode_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

std::vector<int> open_descriptors() {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir("/proc/self/fd"), ::closedir);
  if (directory == nullptr) {
    throw std::runtime_error("cannot read /proc/self/fd, in which the connections are looked up");
  }
  std::vector<int> descriptors;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (entry->d_name[0] != '.') descriptors.push_back(std::atoi(entry->d_name));
  }
  return descriptors;
}

}  // namespace

PeerSocket::PeerSocket(PeerSocket&& other) noexcept
    : original_(std::exchange(other.original_, -1)),
      duplicate_(std::exchange(other.duplicate_, -1)),
      inode_(std::exchange(other.inode_, 0)) {}

PeerSocket& PeerSocket::operator=(PeerSocket&& other) noexcept {
  if (this != &other) {
    release();
    original_ = std::exchange(other.original_, -1);
    duplicate_ = std::exchange(other.duplicate_, -1);
    inode_ = std::exchange(other.inode_, 0);
  }
  return *this;
}

PeerSocket::~PeerSocket() { release(); }

std::vector<PeerSocket> PeerSocket::find(std::span<const ListeningNames> pairs) {
  std::vector<PeerSocket> sockets(pairs.size());
  for (const int fd : open_descriptors()) {
    for (size_t i = 0; i < pairs.size(); ++i) {
      if (!sockets[i].found() && is_end_of(fd, pairs[i])) sockets[i] = hold(fd, pairs[i]);
    }
  }
  for (const PeerSocket& socket : sockets) {
    if (!socket.found()) {
      throw std::runtime_error("a connection was closed while the ranks were still connecting");
    }
  }
  return sockets;
}

PeerSocket PeerSocket::hold(int fd, const ListeningNames& pair) {
  PeerSocket socket;
  const base::ForkLock lock;
  socket.duplicate_ = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (socket.duplicate_ < 0) return {};
  // Gloo may have closed `fd` between the look and the duplication: look again, at the duplicate.
  socket.inode_ = inode_of(socket.duplicate_);
  if (!is_end_of(socket.duplicate_, pair) || !base::fork_guard_add(socket.duplicate_, lock)) {
    ::close(std::exchange(socket.duplicate_, -1));
    return {};
  }
  if (inode_of(fd) == socket.inode_) {
    socket.original_ = fd;
    base::fork_guard_add(fd, lock);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  return socket;
}

void PeerSocket::set_send_buffer(int bytes) const noexcept {
  if (found()) ::setsockopt(duplicate_, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

void PeerSocket::shutdown() const noexcept {
  if (found()) ::shutdown(duplicate_, SHUT_RDWR);
}

void PeerSocket::finish() const noexcept {
  if (found()) ::shutdown(duplicate_, SHUT_WR);
}

void PeerSocket::release() noexcept {
  if (!found()) return;
  const base::ForkLock lock;
  if (original_ >= 0 && inode_of(original_) == inode_) base::fork_guard_remove(original_, lock);
  base::fork_guard_remove(duplicate_, lock);
  ::close(duplicate_);
  duplicate_ = -1;
}

}  // namespace khorus::backends::gloo
