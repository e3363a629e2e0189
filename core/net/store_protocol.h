// The messages between TcpStore and StoreServer, as values and as bytes. One message is the payload
// of one frame. HANDSHAKE.md documents the bytes.
//
// Pure functions, thread-safe. Decoding trusts nothing.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::net {

struct StoreRequest {
  enum class Kind : uint8_t { kSet = 1, kGet = 2 };
  Kind kind = Kind::kGet;
  uint32_t id = 0;                       // chosen by the client, repeated in the answer
  std::chrono::milliseconds timeout{0};  // get
  std::string key;
  std::vector<std::byte> value;  // set
};

struct StoreAnswer {
  uint32_t id = 0;
  StatusCode code = StatusCode::kOk;
  std::vector<std::byte> body;  // get: the value; of an error: its message
};

inline constexpr size_t kMaxStoreMessageBytes = 1u << 20;

// REQUIRES: the key has at most 65535 bytes.
std::vector<std::byte> encode(const StoreRequest& request);
std::vector<std::byte> encode(const StoreAnswer& answer);
// Nothing: the bytes are no such message.
std::optional<StoreRequest> decode_store_request(std::span<const std::byte> bytes);
std::optional<StoreAnswer> decode_store_answer(std::span<const std::byte> bytes);

}  // namespace khorus::net
