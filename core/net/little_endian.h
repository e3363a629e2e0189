// Fixed-width integers in little-endian byte order, for handshake, frame and store bytes.
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>

namespace khorus::net {

// REQUIRES for both: sizeof(T) bytes at `to` / `from`.
template <std::integral T>
void put_little_endian(std::byte* to, T value) noexcept {
  const auto bits = static_cast<std::make_unsigned_t<T>>(value);
  for (size_t i = 0; i < sizeof(T); ++i) to[i] = static_cast<std::byte>((bits >> (8 * i)) & 0xff);
}

template <std::integral T>
T get_little_endian(const std::byte* from) noexcept {
  std::make_unsigned_t<T> bits = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    bits = static_cast<std::make_unsigned_t<T>>(
        bits | static_cast<std::make_unsigned_t<T>>(
                   static_cast<std::make_unsigned_t<T>>(std::to_integer<unsigned char>(from[i]))
                   << (8 * i)));
  }
  return static_cast<T>(bits);
}

}  // namespace khorus::net
