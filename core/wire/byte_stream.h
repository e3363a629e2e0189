// ByteWriter and ByteReader: the primitives of the wire format.
//
// Values; pure. Integers are LEB128 varints (signed ones zig-zagged), doubles 8 bytes
// little-endian, strings and byte strings a varint length and the bytes. The reader never reads
// beyond its span and fails once and for all: after the first error every read returns a default
// and ok() is false.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace khorus::wire {

class ByteWriter {
 public:
  void u8(uint8_t value) { bytes_.push_back(static_cast<std::byte>(value)); }
  void varint(uint64_t value) {
    while (value >= 0x80) {
      u8(static_cast<uint8_t>(value) | 0x80U);
      value >>= 7;
    }
    u8(static_cast<uint8_t>(value));
  }
  void zigzag(int64_t value) {
    varint((static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63));
  }
  void f64(double value) {
    const auto bits = std::bit_cast<uint64_t>(value);
    for (int shift = 0; shift < 64; shift += 8) u8(static_cast<uint8_t>(bits >> shift));
  }
  void raw(std::span<const std::byte> bytes) {
    varint(bytes.size());
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void text(std::string_view text) { raw(std::as_bytes(std::span(text.data(), text.size()))); }

  std::vector<std::byte> take() && { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  bool ok() const noexcept { return error_.empty(); }
  const std::string& error() const noexcept { return error_; }
  size_t offset() const noexcept { return offset_; }
  size_t left() const noexcept { return bytes_.size() - offset_; }

  void fail(std::string_view what) {
    if (!ok()) return;
    error_ = std::string(what) + " at byte " + std::to_string(offset_);
  }

  uint8_t u8() {
    if (!ok()) return 0;
    if (left() == 0) {
      fail("truncated");
      return 0;
    }
    return static_cast<uint8_t>(bytes_[offset_++]);
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint8_t byte = u8();
      if (!ok()) return 0;
      if (shift == 63 && byte > 1) break;
      value |= static_cast<uint64_t>(byte & 0x7FU) << shift;
      if ((byte & 0x80U) == 0) {
        if (byte == 0 && shift > 0) break;  // one value has one encoding
        return value;
      }
    }
    fail("malformed integer");
    return 0;
  }
  // A varint that must not exceed `limit`.
  uint64_t bounded(uint64_t limit, std::string_view what) {
    const uint64_t value = varint();
    if (ok() && value > limit) {
      fail(std::string(what) + " " + std::to_string(value) + " is over the limit of " +
           std::to_string(limit));
    }
    return ok() ? value : 0;
  }
  // How many items follow, each at least `item_bytes` long on the wire.
  size_t count(uint64_t limit, size_t item_bytes, std::string_view what) {
    const uint64_t value = bounded(limit, what);
    if (ok() && value > left() / item_bytes) fail(std::string(what) + " exceeds the frame");
    return ok() ? static_cast<size_t>(value) : 0;
  }
  int64_t zigzag() {
    const uint64_t value = varint();
    return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
  }
  double f64() {
    uint64_t bits = 0;
    for (int shift = 0; shift < 64; shift += 8) bits |= static_cast<uint64_t>(u8()) << shift;
    return std::bit_cast<double>(bits);
  }
  std::span<const std::byte> raw(size_t limit, std::string_view what) {
    const size_t size = count(limit, 1, what);
    if (!ok()) return {};
    const auto bytes = bytes_.subspan(offset_, size);
    offset_ += size;
    return bytes;
  }
  std::string text(size_t limit, std::string_view what) {
    const auto bytes = raw(limit, what);
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::span<const std::byte> bytes_;
  size_t offset_ = 0;
  std::string error_;
};

}  // namespace khorus::wire
