// See store_protocol.h.
#include "core/net/store_protocol.h"

#include <algorithm>

#include "core/base/assert.h"
#include "core/net/little_endian.h"

namespace khorus::net {
namespace {

// kind (1), id (4), timeout in ms (4), key length (2), key, value
constexpr size_t kRequestHeader = 11;
// id (4), code (1), body
constexpr size_t kAnswerHeader = 5;

}  // namespace

std::vector<std::byte> encode(const StoreRequest& request) {
  KHORUS_ASSERT(request.key.size() <= UINT16_MAX, "a store key is too long");
  const size_t key_bytes = request.key.size();
  std::vector<std::byte> out(kRequestHeader + key_bytes + request.value.size());
  out[0] = static_cast<std::byte>(request.kind);
  put_little_endian(out.data() + 1, request.id);
  const int64_t timeout = std::clamp<int64_t>(request.timeout.count(), 0, UINT32_MAX);
  put_little_endian(out.data() + 5, static_cast<uint32_t>(timeout));
  put_little_endian(out.data() + 9, static_cast<uint16_t>(key_bytes));
  std::ranges::copy(std::as_bytes(std::span(request.key)), out.begin() + kRequestHeader);
  std::ranges::copy(request.value,
                    out.begin() + static_cast<ptrdiff_t>(kRequestHeader + key_bytes));
  return out;
}

std::vector<std::byte> encode(const StoreAnswer& answer) {
  std::vector<std::byte> out(kAnswerHeader + answer.body.size());
  put_little_endian(out.data(), answer.id);
  out[4] = static_cast<std::byte>(answer.code);
  std::ranges::copy(answer.body, out.begin() + kAnswerHeader);
  return out;
}

std::optional<StoreRequest> decode_store_request(std::span<const std::byte> bytes) {
  if (bytes.size() < kRequestHeader) return std::nullopt;
  StoreRequest out;
  out.kind = static_cast<StoreRequest::Kind>(bytes[0]);
  out.id = get_little_endian<uint32_t>(bytes.data() + 1);
  out.timeout = std::chrono::milliseconds(get_little_endian<uint32_t>(bytes.data() + 5));
  const size_t key_bytes = get_little_endian<uint16_t>(bytes.data() + 9);
  bytes = bytes.subspan(kRequestHeader);
  if (key_bytes > bytes.size()) return std::nullopt;
  out.key.assign(reinterpret_cast<const char*>(bytes.data()), key_bytes);
  const auto value = bytes.subspan(key_bytes);
  if (out.kind == StoreRequest::Kind::kGet ? !value.empty()
                                           : out.kind != StoreRequest::Kind::kSet) {
    return std::nullopt;
  }
  out.value.assign(value.begin(), value.end());
  return out;
}

std::optional<StoreAnswer> decode_store_answer(std::span<const std::byte> bytes) {
  if (bytes.size() < kAnswerHeader) return std::nullopt;
  StoreAnswer out;
  out.id = get_little_endian<uint32_t>(bytes.data());
  if (std::to_integer<uint8_t>(bytes[4]) > static_cast<uint8_t>(StatusCode::kInternal)) {
    return std::nullopt;
  }
  out.code = static_cast<StatusCode>(bytes[4]);
  out.body.assign(bytes.begin() + kAnswerHeader, bytes.end());
  return out;
}

}  // namespace khorus::net
