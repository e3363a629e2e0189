// Stream: the bytes of one connection, in the clear or, once TLS was started on it, under TLS.
//
// A resource: movable handle, one owner. No call blocks.
//
// Thread rule: one thread at a time.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "core/net/socket.h"
#include "core/net/tls.h"

namespace khorus::net {

class Stream {
 public:
  Stream() = default;
  // In the clear. Implicit: a socket is such a stream.
  Stream(Socket socket) noexcept : socket_(std::move(socket)) {}

  // From here on handshake_tls() is to be called whenever the socket is readable, and nothing else
  // read or written, until it is done.
  void start_tls(std::shared_ptr<const TlsContext> context, Tls::Side side,
                 const SecretBytes& secret) {
    tls_ = std::make_unique<Tls>(std::move(context), side, secret);
  }
  Tls::Progress handshake_tls() { return tls_->handshake(&socket_); }

  // Fewer bytes than `bytes` has room for: the kernel has no more.
  Socket::Transfer read_some(std::span<std::byte> bytes) {
    return tls_ ? tls_->read_some(&socket_, bytes) : socket_.read_some(bytes);
  }
  // What the kernel has given already, and was not read yet: no readable socket tells of it.
  Socket::Transfer read_buffered(std::span<std::byte> bytes) {
    return tls_ ? tls_->read_buffered(&socket_, bytes) : Socket::Transfer();
  }
  Socket::Transfer write_some(std::span<const std::byte> first,
                              std::span<const std::byte> second = {}) {
    return tls_ ? tls_->write_some(&socket_, first, second) : socket_.write_some(first, second);
  }
  // Bytes that were taken and that the kernel does not have yet.
  bool has_unsent() const noexcept { return tls_ && tls_->has_unsent(); }
  // kDone: the kernel has them.
  Socket::Transfer flush() {
    return tls_ ? tls_->flush(&socket_) : Socket::Transfer{Socket::Transfer::Kind::kDone, 0, {}};
  }

  // For everything that has nothing to do with bytes.
  Socket& socket() noexcept { return socket_; }

 private:
  Socket socket_;
  std::unique_ptr<Tls> tls_;
};

}  // namespace khorus::net
