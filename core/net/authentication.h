// Authentication: who may speak on a control connection, and that every frame is theirs.
//
// The handshake is three fixed-size messages; both sides prove that they know the job key over
// fresh nonces, bound to job, epoch, roles, ranks, wire and library version. It is pure: two state
// machines over byte strings, without sockets or time. HANDSHAKE.md documents the bytes; the
// pattern is the mutual challenge-response of ISO/IEC 9798-4 with HMAC-SHA256, the key derivation
// is in the manner of RFC 5869 (HKDF-Expand).
//
// Thread rule: each object to one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/net/job_key.h"
#include "core/net/mac.h"
#include "khorus/status.h"
#include "khorus/version.h"

namespace khorus::net {

// What a member of the job is in a connection. The values travel on the wire: never renumber.
enum class Role : uint8_t { kRank = 1, kStoreClient = 2, kStoreServer = 3 };
std::string_view to_string(Role role) noexcept;

inline constexpr size_t kMaxJobIdBytes = 64;
inline constexpr uint32_t kLibraryVersion =
    (KHORUS_VERSION_MAJOR << 16) | (KHORUS_VERSION_MINOR << 8) | KHORUS_VERSION_PATCH;

// Who one end is. Both ends of a connection must agree in job_id, epoch, tls and both versions.
struct Identity {
  Role role = Role::kRank;
  int32_t rank = -1;  // -1: none (a store server, the launcher)
  uint64_t epoch = 0;
  std::string job_id;  // at most kMaxJobIdBytes bytes, without NUL
  uint32_t wire_version = kWireVersion;
  uint32_t library_version = kLibraryVersion;
  bool tls = false;  // whether TLS begins behind this handshake (tls.h); acts on nothing here
};

// Sizes on the wire; the same in every wire version, so that versions can refuse each other.
inline constexpr size_t kHelloBytes = 192;
inline constexpr size_t kConfirmBytes = 32;

using HelloBytes = std::array<std::byte, kHelloBytes>;
using ConfirmBytes = std::array<std::byte, kConfirmBytes>;

// The two directions of one connection. Wiped on destruction.
struct SessionKeys {
  SecretBytes send;
  SecretBytes receive;
};

// The side that connects. Calls in this order: hello(), receive_hello(), keys().
class InitiatorHandshake {
 public:
  // `peer_rank`: who must answer; -1 for a store server.
  InitiatorHandshake(const JobKey& key, Identity self, Role peer_role, int32_t peer_rank);

  // InvalidArgument when the identity cannot be sent (job id too long) or the key is not set.
  Result<HelloBytes> hello();
  // The answer to hello(). PermissionDenied says what differs, naming both values.
  Result<ConfirmBytes> receive_hello(std::span<const std::byte, kHelloBytes> answer);
  // REQUIRES (both): receive_hello() succeeded.
  SessionKeys keys() const;
  SecretBytes tls_secret() const;

 private:
  JobKey key_;
  Identity self_;
  Role peer_role_;
  int32_t peer_rank_;
  HelloBytes own_{};
  HelloBytes peer_{};
};

// The side that accepts. Calls in this order: receive_hello(), receive_confirm(), keys().
class ResponderHandshake {
 public:
  // Whether a rank may connect now: ok, or why not (not a child, already connected).
  using Admission = std::function<Status(int32_t rank)>;

  ResponderHandshake(const JobKey& key, Identity self, Role peer_role, Admission admission);

  struct Answer {
    Status status;           // not ok: send `bytes` if has_bytes, then close
    bool has_bytes = false;  // false: what came is no hello of Khorus; say nothing
    HelloBytes bytes{};
  };
  Answer receive_hello(std::span<const std::byte, kHelloBytes> hello);
  // Only after this is the peer known to hold the key now. Asks the admission again.
  Status receive_confirm(std::span<const std::byte, kConfirmBytes> confirm);
  // REQUIRES (both): receive_confirm() succeeded.
  SessionKeys keys() const;
  SecretBytes tls_secret() const;
  // The rank that the peer claims, once receive_hello() has verified it; else -1.
  int32_t peer_rank() const noexcept { return peer_rank_; }

 private:
  JobKey key_;
  Identity self_;
  Role peer_role_;
  Admission admission_;
  int32_t peer_rank_ = -1;
  bool answered_ = false;
  HelloBytes own_{};
  HelloBytes peer_{};
};

}  // namespace khorus::net
