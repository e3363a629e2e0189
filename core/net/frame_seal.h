// FrameSeal and FrameOpen: the frame format of an authenticated connection.
//
// frame = payload length (4 bytes), sequence number (8), MAC (16), payload. Sequence numbers count
// from 0 in each direction; the MAC is HMAC-SHA256 under the direction's session key over length,
// sequence number and payload, truncated to its first 16 bytes (RFC 2104 section 5). A frame that
// is replayed, reordered, cut, changed or too long is refused, and with it the connection.
// HANDSHAKE.md documents the bytes.
//
// Thread rule: each object to one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/net/mac.h"
#include "khorus/status.h"

namespace khorus::net {

inline constexpr size_t kFrameMacBytes = 16;
inline constexpr size_t kFrameHeaderBytes = 4 + 8 + kFrameMacBytes;
using FrameHeader = std::array<std::byte, kFrameHeaderBytes>;

// Makes the headers of one direction.
class FrameSeal {
 public:
  explicit FrameSeal(const SecretBytes& key) : mac_(key.bytes()) {}
  // The header that goes before this payload. REQUIRES: payload.size() fits in 32 bits.
  FrameHeader seal(std::span<const std::byte> payload);

 private:
  Mac mac_;
  uint64_t sequence_ = 0;
};

// Checks the frames of one direction.
class FrameOpen {
 public:
  FrameOpen(const SecretBytes& key, size_t max_payload_bytes)
      : mac_(key.bytes()), max_payload_bytes_(max_payload_bytes) {}

  // How long the payload after this header is. PermissionDenied: the length is over the bound or
  // the sequence number is not the next one.
  Result<size_t> payload_bytes(std::span<const std::byte, kFrameHeaderBytes> header) const;
  // Ok, and the frame counts as received; or PermissionDenied.
  // REQUIRES: payload_bytes(header) was ok and equals payload.size().
  Status open(std::span<const std::byte, kFrameHeaderBytes> header,
              std::span<const std::byte> payload);

 private:
  Mac mac_;
  size_t max_payload_bytes_;
  uint64_t sequence_ = 0;
};

}  // namespace khorus::net
