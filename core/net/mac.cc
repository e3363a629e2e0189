// See mac.h.
#include "core/net/mac.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <string>

#include "core/base/assert.h"

namespace khorus::net {
namespace {

const unsigned char* raw(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}

}  // namespace

SecretBytes::~SecretBytes() { wipe(bytes_); }

void Mac::Free::operator()(EVP_MAC_CTX* context) const noexcept { EVP_MAC_CTX_free(context); }

Mac::Mac(std::span<const std::byte, kBytes> key) {
  EVP_MAC* hmac = EVP_MAC_fetch(nullptr, OSSL_MAC_NAME_HMAC, nullptr);
  KHORUS_ASSERT(hmac != nullptr, "OpenSSL offers no HMAC");
  context_.reset(EVP_MAC_CTX_new(hmac));
  EVP_MAC_free(hmac);
  std::string digest = "SHA256";
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_end()};
  KHORUS_ASSERT(context_ && EVP_MAC_init(context_.get(), raw(key), key.size(), parameters) == 1,
                "OpenSSL cannot set up HMAC-SHA256");
}

Mac::~Mac() = default;
Mac::Mac(Mac&&) noexcept = default;
Mac& Mac::operator=(Mac&&) noexcept = default;

void Mac::restart() {
  // Without a key: the digest states that belong to the key are used again.
  KHORUS_ASSERT(EVP_MAC_init(context_.get(), nullptr, 0, nullptr) == 1, "HMAC restart failed");
}

void Mac::update(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  KHORUS_ASSERT(EVP_MAC_update(context_.get(), raw(bytes), bytes.size()) == 1,
                "HMAC update failed");
}

Mac::Tag Mac::finish() {
  Tag tag;
  size_t size = 0;
  KHORUS_ASSERT(EVP_MAC_final(context_.get(), reinterpret_cast<unsigned char*>(tag.data()), &size,
                              tag.size()) == 1 &&
                    size == tag.size(),
                "HMAC final failed");
  return tag;
}

Mac::Tag Mac::compute(std::span<const std::byte> first, std::span<const std::byte> second) {
  restart();
  update(first);
  update(second);
  return finish();
}

Mac::Tag Mac::compute(std::string_view label, std::span<const std::byte> first,
                      std::span<const std::byte> second) {
  constexpr std::byte kEndOfLabel{0};
  restart();
  update(std::as_bytes(std::span(label)));
  update({&kEndOfLabel, 1});
  update(first);
  update(second);
  return finish();
}

bool equal_in_constant_time(std::span<const std::byte> a, std::span<const std::byte> b) noexcept {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Status fill_random(std::span<std::byte> bytes) {
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size())) !=
      1) {
    return Status(StatusCode::kUnavailable, "the system's random generator gives no bytes");
  }
  return {};
}

void wipe(std::span<std::byte> bytes) noexcept { OPENSSL_cleanse(bytes.data(), bytes.size()); }

}  // namespace khorus::net
