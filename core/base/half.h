// 16-bit floats: conversions between float32 and float16 (IEEE 754 binary16) or bfloat16.
//
// Pure functions on bit patterns, without branches, so that loops over them vectorise without any
// instruction-set extension. Rounding is to nearest, ties to even; overflow becomes infinity; a NaN
// stays a NaN, and becomes a quiet one. float16 conversions have the bits of the processor's own
// (F16C), NaN included; bfloat16 ones keep no payload of a NaN. They do not depend on whether the
// processor flushes subnormal numbers to zero.
#pragma once

#include <bit>
#include <cstdint>

namespace khorus::base {

inline float float16_to_float(uint16_t half) noexcept {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t exponent = magnitude >> 10;
  // Normal numbers: move the fields, then re-bias the exponent from 15 to 127.
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  // Infinity and NaN: the exponent is all ones in both formats.
  const uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
  const uint32_t special = (magnitude << 13) | 0x7f800000u | quiet;
  // Subnormal numbers count units of 2^-24.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  uint32_t bits = exponent == 0 ? subnormal : normal;
  bits = exponent == 31 ? special : bits;
  return std::bit_cast<float>(bits | sign);
}

inline uint16_t float_to_float16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal results: add just under half a unit, plus one when the last kept bit is odd; a carry
  // runs into the exponent as it should.
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  // Subnormal results: 0.5 has units of 2^-24, so the addition rounds to just those.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;  // 2^-14
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;              // 65520 and up: infinity
  const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x1ffu);
  half = magnitude > 0x7f800000u ? nan : half;
  return static_cast<uint16_t>(half | sign);
}

inline float bfloat16_to_float(uint16_t half) noexcept {
  return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

inline uint16_t float_to_bfloat16(float value) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(is_nan ? 0x7fc0u : rounded);
}

}  // namespace khorus::base
