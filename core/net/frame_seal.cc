// See frame_seal.h.
#include "core/net/frame_seal.h"

#include <algorithm>
#include <string>

#include "core/net/little_endian.h"

namespace khorus::net {
namespace {

constexpr size_t kSequenceAt = 4;
constexpr size_t kMacAt = 12;

}  // namespace

FrameHeader FrameSeal::seal(std::span<const std::byte> payload) {
  FrameHeader header;
  put_little_endian(header.data(), static_cast<uint32_t>(payload.size()));
  put_little_endian(header.data() + kSequenceAt, sequence_++);
  const Mac::Tag tag = mac_.compute(std::span(header).first<kMacAt>(), payload);
  std::copy_n(tag.begin(), kFrameMacBytes, header.begin() + kMacAt);
  return header;
}

Result<size_t> FrameOpen::payload_bytes(
    std::span<const std::byte, kFrameHeaderBytes> header) const {
  const size_t length = get_little_endian<uint32_t>(header.data());
  if (length > max_payload_bytes_) {
    return Status(StatusCode::kPermissionDenied, "a frame of " + std::to_string(length) +
                                                     " bytes is over the bound of " +
                                                     std::to_string(max_payload_bytes_));
  }
  const auto sequence = get_little_endian<uint64_t>(header.data() + kSequenceAt);
  if (sequence != sequence_) {
    return Status(StatusCode::kPermissionDenied,
                  "a frame was replayed, lost or reordered: its number is " +
                      std::to_string(sequence) + ", the next one is " + std::to_string(sequence_));
  }
  return length;
}

Status FrameOpen::open(std::span<const std::byte, kFrameHeaderBytes> header,
                       std::span<const std::byte> payload) {
  const Mac::Tag tag = mac_.compute(header.first<kMacAt>(), payload);
  if (!equal_in_constant_time(std::span(tag).first<kFrameMacBytes>(),
                              header.subspan<kMacAt, kFrameMacBytes>())) {
    return Status(StatusCode::kPermissionDenied,
                  "the MAC of frame " + std::to_string(sequence_) + " does not verify");
  }
  ++sequence_;
  return {};
}

}  // namespace khorus::net
