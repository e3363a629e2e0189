// Text as the bytes that stores and frames carry, and back.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace khorus::net {

// A view: `text` must outlive it.
inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace khorus::net
