// Mac: HMAC-SHA256 (RFC 2104, FIPS 180-4) by OpenSSL, keyed once and reused, and the few other
// primitives that the handshake needs.
//
// Speed matters: one MAC is made and one verified per control frame. Re-initialising one EVP_MAC
// context without a key costs 230 ns for 112 bytes where a duplicate costs 515 ns (OpenSSL 3.0,
// SHA extensions); the deprecated SHA256_* functions would save 110 ns more.
//
// Thread rule: each object to one thread at a time.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "khorus/status.h"

typedef struct evp_mac_ctx_st EVP_MAC_CTX;

namespace khorus::net {

// 32 bytes that are wiped when they are destroyed.
class SecretBytes {
 public:
  static constexpr size_t kBytes = 32;
  SecretBytes() = default;
  ~SecretBytes();
  SecretBytes(const SecretBytes&) = default;
  SecretBytes& operator=(const SecretBytes&) = default;
  std::span<std::byte, kBytes> bytes() noexcept { return bytes_; }
  std::span<const std::byte, kBytes> bytes() const noexcept { return bytes_; }

 private:
  std::array<std::byte, kBytes> bytes_{};
};

class Mac {
 public:
  static constexpr size_t kBytes = 32;
  using Tag = std::array<std::byte, kBytes>;

  explicit Mac(std::span<const std::byte, kBytes> key);
  ~Mac();
  Mac(Mac&&) noexcept;
  Mac& operator=(Mac&&) noexcept;

  // The tag over the concatenation of the parts.
  Tag compute(std::span<const std::byte> first, std::span<const std::byte> second = {});
  Tag compute(std::string_view label, std::span<const std::byte> first,
              std::span<const std::byte> second = {});

 private:
  struct Free {
    void operator()(EVP_MAC_CTX* context) const noexcept;
  };
  void restart();
  void update(std::span<const std::byte> bytes);
  Tag finish();

  std::unique_ptr<EVP_MAC_CTX, Free> context_;
};

// Equality in time that depends on the length only.
bool equal_in_constant_time(std::span<const std::byte> a, std::span<const std::byte> b) noexcept;
// Unpredictable bytes from the system.
Status fill_random(std::span<std::byte> bytes);
void wipe(std::span<std::byte> bytes) noexcept;

}  // namespace khorus::net
