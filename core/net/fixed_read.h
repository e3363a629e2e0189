// FixedRead: exactly N bytes from a socket that may give them in pieces, and none beyond.
//
// Thread rule: one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "core/net/socket.h"

namespace khorus::net {

struct FixedReadResult {
  enum class State : uint8_t { kMore, kComplete, kOver } state = State::kMore;
  std::string reason;  // kOver
};

template <size_t kSize>
class FixedRead {
 public:
  FixedReadResult read(Socket* socket) {
    while (filled_ < kSize) {
      const Socket::Transfer transfer = socket->read_some(std::span(bytes_).subspan(filled_));
      if (transfer.kind == Socket::Transfer::Kind::kWouldBlock) return {};
      if (transfer.kind == Socket::Transfer::Kind::kOver) {
        return {FixedReadResult::State::kOver, transfer.reason};
      }
      filled_ += transfer.bytes;
    }
    return {FixedReadResult::State::kComplete, {}};
  }
  // REQUIRES: read() was complete.
  std::span<const std::byte, kSize> bytes() const noexcept { return bytes_; }

 private:
  std::array<std::byte, kSize> bytes_{};
  size_t filled_ = 0;
};

}  // namespace khorus::net
