// See tls.h.
#include "core/net/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/base/assert.h"

namespace khorus::net {
namespace {

using Kind = Socket::Transfer::Kind;

// The name of the pre-shared key. It says nothing: each connection has a key of its own.
constexpr std::string_view kIdentity = "khorus";
constexpr const char* kSuite = "TLS_AES_128_GCM_SHA256";
constexpr unsigned char kSuiteNumber[] = {0x13, 0x01};
constexpr size_t kMaxRecordBytes = SSL3_RT_MAX_PLAIN_LENGTH;

std::string reason_of_openssl() {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  return reason == nullptr ? "no reason given" : reason;
}

Status not_offered() {
  return Status(StatusCode::kUnavailable, "this OpenSSL offers no TLS 1.3 with " +
                                              std::string(kSuite) + " (" + reason_of_openssl() +
                                              "); set KHORUS_TLS=0 everywhere");
}

}  // namespace

// What OpenSSL calls. A friend, because these run in the name of one Tls.
struct TlsCallbacks {
  // The ciphertext always finds room: what the kernel does not take waits in the Tls, so that
  // OpenSSL is never in the middle of a write when it reads.
  static int write(BIO* bio, const char* data, size_t size, size_t* written) {
    Tls& tls = *static_cast<Tls*>(BIO_get_data(bio));
    *written = size;
    std::span<const std::byte> bytes = std::as_bytes(std::span(data, size));
    if (!tls.has_unsent() && tls.write_failure_.empty()) {
      const Socket::Transfer transfer = tls.socket_->write_some(bytes);
      if (transfer.kind == Kind::kOver) tls.write_failure_ = transfer.reason;
      bytes = bytes.subspan(transfer.bytes);
    }
    // A socket that is over for writing may still be read: OpenSSL must not come to know.
    if (tls.write_failure_.empty()) {
      tls.unsent_.insert(tls.unsent_.end(), bytes.begin(), bytes.end());
    }
    return 1;
  }

  static int read(BIO* bio, char* data, size_t size, size_t* got) {
    Tls& tls = *static_cast<Tls*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    *got = 0;
    if (!tls.socket_empty_) {
      const Socket::Transfer transfer =
          tls.socket_->read_some(std::as_writable_bytes(std::span(data, size)));
      if (transfer.kind == Kind::kOver) {
        tls.read_failure_ = transfer.reason;
        return -1;
      }
      // As far as OpenSSL asks again in this call, there is nothing: saves a system call.
      tls.socket_empty_ = transfer.bytes < size;
      *got = transfer.bytes;
      if (*got > 0) return 1;
    }
    BIO_set_retry_read(bio);
    return -1;
  }

  static long control(BIO*, int what, long, void*) { return what == BIO_CTRL_FLUSH ? 1 : 0; }

  // The pre-shared key in the form that TLS 1.3 of OpenSSL takes. The caller owns it.
  static SSL_SESSION* key_of(SSL* session) {
    const Tls& tls = *static_cast<Tls*>(SSL_get_app_data(session));
    const auto secret = tls.secret_.bytes();
    const SSL_CIPHER* const suite = SSL_CIPHER_find(session, kSuiteNumber);
    SSL_SESSION* const key = SSL_SESSION_new();
    KHORUS_ASSERT(
        suite != nullptr && key != nullptr &&
            SSL_SESSION_set1_master_key(key, reinterpret_cast<const unsigned char*>(secret.data()),
                                        secret.size()) == 1 &&
            SSL_SESSION_set_cipher(key, suite) == 1 &&
            SSL_SESSION_set_protocol_version(key, TLS1_3_VERSION) == 1,
        "OpenSSL takes no pre-shared key");
    return key;
  }

  static int key_of_initiator(SSL* session, const EVP_MD*, const unsigned char** identity,
                              size_t* identity_size, SSL_SESSION** key) {
    *identity = reinterpret_cast<const unsigned char*>(kIdentity.data());
    *identity_size = kIdentity.size();
    *key = key_of(session);
    return 1;
  }

  static int key_of_responder(SSL* session, const unsigned char* identity, size_t identity_size,
                              SSL_SESSION** key) {
    const std::string_view name(reinterpret_cast<const char*>(identity), identity_size);
    // Without a key the handshake fails, since there is no certificate either.
    *key = name == kIdentity ? key_of(session) : nullptr;
    return 1;
  }
};

void TlsContext::Free::operator()(SSL_CTX* settings) const noexcept { SSL_CTX_free(settings); }
void TlsContext::Free::operator()(BIO_METHOD* method) const noexcept { BIO_meth_free(method); }

Result<std::shared_ptr<const TlsContext>> TlsContext::make(uint64_t records_per_key) {
  ERR_clear_error();
  const std::shared_ptr<TlsContext> context(new TlsContext(records_per_key));
  context->way_to_socket_.reset(BIO_meth_new(BIO_TYPE_SOURCE_SINK, "khorus socket"));
  BIO_METHOD* const way = context->way_to_socket_.get();
  if (way == nullptr || BIO_meth_set_write_ex(way, TlsCallbacks::write) != 1 ||
      BIO_meth_set_read_ex(way, TlsCallbacks::read) != 1 ||
      BIO_meth_set_ctrl(way, TlsCallbacks::control) != 1) {
    return not_offered();
  }
  context->settings_.reset(SSL_CTX_new(TLS_method()));
  SSL_CTX* const settings = context->settings_.get();
  if (settings == nullptr || SSL_CTX_set_min_proto_version(settings, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(settings, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(settings, kSuite) != 1 ||
      SSL_CTX_set_num_tickets(settings, 0) != 1) {
    return not_offered();
  }
  SSL_CTX_set_options(settings, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_clear_options(settings, SSL_OP_ALLOW_NO_DHE_KEX | SSL_OP_ENABLE_MIDDLEBOX_COMPAT);
  SSL_CTX_set_session_cache_mode(settings, SSL_SESS_CACHE_OFF);
  // Buffers of 16 KiB are given back while a connection is idle: a store has many.
  SSL_CTX_set_mode(settings, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_psk_use_session_callback(settings, TlsCallbacks::key_of_initiator);
  SSL_CTX_set_psk_find_session_callback(settings, TlsCallbacks::key_of_responder);
  return std::shared_ptr<const TlsContext>(context);
}

void Tls::Free::operator()(SSL* session) const noexcept { SSL_free(session); }

Tls::Tls(std::shared_ptr<const TlsContext> context, Side side, const SecretBytes& secret)
    : context_(std::move(context)), session_(SSL_new(context_->settings())), secret_(secret) {
  BIO* const bio = BIO_new(context_->way_to_socket());
  KHORUS_ASSERT(session_ != nullptr && bio != nullptr, "OpenSSL cannot make a TLS connection");
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(session_.get(), bio, bio);
  SSL_set_app_data(session_.get(), this);
  if (side == Side::kResponder) {
    SSL_set_accept_state(session_.get());
  } else {
    SSL_set_connect_state(session_.get());
    // No certificate is good enough: it is the pre-shared key, or nothing.
    SSL_set_verify(session_.get(), SSL_VERIFY_PEER, nullptr);
  }
}

Tls::~Tls() = default;

// Why the last call of OpenSSL, which did not merely want more, has failed.
std::string Tls::failure() const {
  if (!read_failure_.empty()) return read_failure_;
  return "broke its TLS connection: " + reason_of_openssl();
}

Tls::Progress Tls::handshake(Socket* socket) {
  socket_ = socket;
  socket_empty_ = false;
  ERR_clear_error();
  const int result = SSL_do_handshake(session_.get());
  const bool wants_more =
      result != 1 && SSL_get_error(session_.get(), result) == SSL_ERROR_WANT_READ;
  socket_ = nullptr;
  if (result != 1 && !wants_more) return {Progress::State::kOver, failure()};
  if (!write_failure_.empty()) return {Progress::State::kOver, write_failure_};
  // A fresh socket takes these few bytes whole; one that does not is not worth waiting for.
  if (has_unsent()) return {Progress::State::kOver, "does not take our part of TLS"};
  if (wants_more) return {};
  if (SSL_session_reused(session_.get()) != 1) {
    return {Progress::State::kOver, "made a TLS connection without the secret"};
  }
  secret_ = SecretBytes();
  // From here on one system call may fetch several records.
  SSL_set_read_ahead(session_.get(), 1);
  return {Progress::State::kDone, {}};
}

Socket::Transfer Tls::read(Socket* socket, std::span<std::byte> bytes) {
  socket_ = socket;
  size_t done = 0;
  while (done < bytes.size() && over_.empty()) {
    size_t got = 0;
    ERR_clear_error();
    const int result = SSL_read_ex(session_.get(), bytes.data() + done, bytes.size() - done, &got);
    done += got;
    if (result == 1) continue;
    const int why = SSL_get_error(session_.get(), result);
    if (why == SSL_ERROR_WANT_READ) break;
    over_ = why == SSL_ERROR_ZERO_RETURN ? "closed the connection" : failure();
  }
  socket_ = nullptr;
  if (done > 0) return {Kind::kDone, done, {}};
  if (!over_.empty()) return {Kind::kOver, 0, over_};
  return {};
}

Socket::Transfer Tls::read_some(Socket* socket, std::span<std::byte> bytes) {
  socket_empty_ = false;
  return read(socket, bytes);
}

Socket::Transfer Tls::read_buffered(Socket* socket, std::span<std::byte> bytes) {
  socket_empty_ = true;
  return read(socket, bytes);
}

// What comes behind the first `done` bytes of both parts together, as much as a record holds.
std::span<const std::byte> Tls::next_record(std::span<const std::byte> first,
                                            std::span<const std::byte> second, size_t done) {
  if (done >= first.size() || second.empty()) {
    const auto rest =
        done >= first.size() ? second.subspan(done - first.size()) : first.subspan(done);
    return rest.first(std::min(rest.size(), kMaxRecordBytes));
  }
  const auto head = first.subspan(done).first(std::min(first.size() - done, kMaxRecordBytes));
  const auto tail = second.first(std::min(second.size(), kMaxRecordBytes - head.size()));
  joined_.assign(head.begin(), head.end());
  joined_.insert(joined_.end(), tail.begin(), tail.end());
  return joined_;
}

bool Tls::write_record(std::span<const std::byte> bytes) {
  size_t written = 0;
  ERR_clear_error();
  if (SSL_write_ex(session_.get(), bytes.data(), bytes.size(), &written) != 1) return false;
  if (++records_ % context_->records_per_key() != 0) return true;
  ++renewals_;
  return SSL_key_update(session_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) == 1;
}

Socket::Transfer Tls::write_some(Socket* socket, std::span<const std::byte> first,
                                 std::span<const std::byte> second) {
  Socket::Transfer before = flush(socket);
  if (before.kind != Kind::kDone) return before;
  socket_ = socket;
  size_t done = 0;
  while (done < first.size() + second.size() && !has_unsent() && write_failure_.empty()) {
    const auto record = next_record(first, second, done);
    if (!write_record(record)) write_failure_ = failure();
    done += record.size();
  }
  socket_ = nullptr;
  if (!write_failure_.empty()) return {Kind::kOver, 0, write_failure_};
  return {Kind::kDone, done, {}};
}

Socket::Transfer Tls::flush(Socket* socket) {
  while (has_unsent() && write_failure_.empty()) {
    const Socket::Transfer transfer = socket->write_some(std::span(unsent_).subspan(unsent_at_));
    if (transfer.kind == Kind::kWouldBlock) return transfer;
    if (transfer.kind == Kind::kOver) write_failure_ = transfer.reason;
    unsent_at_ += transfer.bytes;
  }
  unsent_.clear();
  unsent_at_ = 0;
  if (!write_failure_.empty()) return {Kind::kOver, 0, write_failure_};
  return {Kind::kDone, 0, {}};
}

}  // namespace khorus::net
