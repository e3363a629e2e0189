// PeerSocket: a hold on one TCP connection that Gloo owns and does not show.
//
// Why: Gloo cannot be told to give up a transfer in progress, but shutdown(2) on the connection
// makes its loop thread see an end of file and fail whatever waits; and a data-loader child forked
// from this process must not keep the connection open (core/base/fork_guard.h).
//
// The connection is found among the process's descriptors by its two addresses, and held through a
// duplicate: Gloo may close its own descriptor at any moment, and the number may then belong to a
// stranger. Thread rule: shutdown() from any thread; the rest from one thread.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <span>
#include <vector>

namespace khorus::backends::gloo {

// Address and port of one end.
using SocketName = sockaddr_storage;

// The two sockets that listened for a pair of ranks. One of the two ranks connected to the other,
// so exactly one of these names is that of an end of the connection: the local end of `mine`, or
// the remote end of `theirs`.
struct ListeningNames {
  SocketName mine;
  SocketName theirs;
};

class PeerSocket {
 public:
  PeerSocket() = default;
  PeerSocket(PeerSocket&& other) noexcept;
  PeerSocket& operator=(PeerSocket&& other) noexcept;
  ~PeerSocket();

  // One connection per entry of `pairs`, in the same order; throws std::runtime_error if one is not
  // among the descriptors of this process. Looks at each descriptor once.
  static std::vector<PeerSocket> find(std::span<const ListeningNames> pairs);

  bool found() const { return duplicate_ >= 0; }
  void set_send_buffer(int bytes) const noexcept;
  // Ends the connection in both directions. What was received but not read stays readable.
  void shutdown() const noexcept;
  // Sends an end of file after what is still to be sent; whoever holds a copy of the descriptor.
  void finish() const noexcept;

 private:
  // Null-like if `fd` is not an end of the pair's connection.
  static PeerSocket hold(int fd, const ListeningNames& pair);
  void release() noexcept;

  int original_ = -1;   // Gloo's
  int duplicate_ = -1;  // ours
  ino_t inode_ = 0;
};

}  // namespace khorus::backends::gloo
