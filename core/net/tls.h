// TLS 1.3 on an authenticated socket, for the privacy of control connections (KHORUS_TLS).
//
// It begins where the handshake of authentication.h ends. Both sides then hold a secret of this
// connection, and TLS takes it as its external pre-shared key (RFC 8446, 2.2), always with an
// ephemeral key exchange (psk_dhe_ke, 4.2.9): there are no certificates to manage, no stranger
// reaches the code of TLS, and recorded traffic stays private when the job key leaks later. No
// tickets, no resumption, no early data. The keys of a direction are renewed long before the bound
// of RFC 8446, 5.5. There is no close_notify: the frames inside say how long they are, and the
// protocol has a goodbye of its own.
//
// The bytes go through calls of Socket, so that its rules (no SIGPIPE, no blocking) hold here too.
//
// Thread rule: each object to one thread at a time; a context may be shared by connections of one
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/net/mac.h"
#include "core/net/socket.h"
#include "khorus/status.h"

typedef struct bio_method_st BIO_METHOD;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_st SSL;

namespace khorus::net {

// What connections share: the settings, as OpenSSL's object of a hundred kilobytes.
class TlsContext {
 public:
  // AES-GCM allows 2^24.5 records under one key.
  static constexpr uint64_t kRecordsPerKey = uint64_t{1} << 20;

  // Unavailable: this OpenSSL does not offer what is needed. `records_per_key`: for tests.
  static Result<std::shared_ptr<const TlsContext>> make(uint64_t records_per_key = kRecordsPerKey);

  uint64_t records_per_key() const noexcept { return records_per_key_; }
  SSL_CTX* settings() const noexcept { return settings_.get(); }
  const BIO_METHOD* way_to_socket() const noexcept { return way_to_socket_.get(); }

 private:
  struct Free {
    void operator()(SSL_CTX* settings) const noexcept;
    void operator()(BIO_METHOD* method) const noexcept;
  };
  explicit TlsContext(uint64_t records_per_key) : records_per_key_(records_per_key) {}

  const uint64_t records_per_key_;
  std::unique_ptr<BIO_METHOD, Free> way_to_socket_;
  std::unique_ptr<SSL_CTX, Free> settings_;
};

// One connection. The socket, always the same, is somebody else's and is lent for each call.
class Tls {
 public:
  enum class Side : uint8_t { kInitiator, kResponder };
  struct Progress {
    enum class State : uint8_t { kMore, kDone, kOver } state = State::kMore;
    std::string reason;  // kOver
  };

  Tls(std::shared_ptr<const TlsContext> context, Side side, const SecretBytes& secret);
  ~Tls();
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;

  // The next part of the handshake. kMore: again when the socket is readable. When it is done,
  // nothing that came behind it has left the socket.
  Progress handshake(Socket* socket);

  // REQUIRES (these four): the handshake is done.
  // Fills `bytes` as far as the kernel has something: fewer bytes mean that it has no more.
  Socket::Transfer read_some(Socket* socket, std::span<std::byte> bytes);
  // Only what the kernel has given already: at most one record.
  Socket::Transfer read_buffered(Socket* socket, std::span<std::byte> bytes);
  // Takes whole records until one does not fit into the kernel any more. The rest of that one is
  // kept (has_unsent()), and until flush() has written it nothing else is taken.
  Socket::Transfer write_some(Socket* socket, std::span<const std::byte> first,
                              std::span<const std::byte> second);
  // kDone: all was written.
  Socket::Transfer flush(Socket* socket);
  bool has_unsent() const noexcept { return unsent_at_ < unsent_.size(); }

  // How often the keys of what is sent were renewed.
  uint64_t renewals() const noexcept { return renewals_; }

 private:
  friend struct TlsCallbacks;
  struct Free {
    void operator()(SSL* session) const noexcept;
  };
  Socket::Transfer read(Socket* socket, std::span<std::byte> bytes);
  std::span<const std::byte> next_record(std::span<const std::byte> first,
                                         std::span<const std::byte> second, size_t done);
  bool write_record(std::span<const std::byte> bytes);
  std::string failure() const;

  std::shared_ptr<const TlsContext> context_;
  std::unique_ptr<SSL, Free> session_;
  SecretBytes secret_;         // until the handshake is done
  Socket* socket_ = nullptr;   // during a call
  bool socket_empty_ = false;  // it has given less than was asked for
  std::string read_failure_;   // of the socket
  std::string write_failure_;
  std::string over_;  // why nothing more can be read
  uint64_t records_ = 0;
  uint64_t renewals_ = 0;
  std::vector<std::byte> unsent_;  // ciphertext, from unsent_at_ on
  size_t unsent_at_ = 0;
  std::vector<std::byte> joined_;  // a record made of two parts
};

}  // namespace khorus::net
