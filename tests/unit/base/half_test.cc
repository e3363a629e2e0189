// Conversions of 16-bit floats: all 65536 patterns, and every rounding boundary between neighbours.
#include "core/base/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace khorus::base {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// From the definition of the format, with powers of two instead of bit tricks.
double float16_value(unsigned bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31);
  const int fraction = static_cast<int>(bits & 1023);
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

bool is_nan16(unsigned bits) { return (bits & 0x7c00) == 0x7c00 && (bits & 0x3ff) != 0; }

TEST(Float16, EveryPatternDecodesToItsValueAndBack) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = float16_to_float(static_cast<uint16_t>(bits));
    if (is_nan16(bits)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(is_nan16(float_to_float16(value))) << bits;
      continue;
    }
    if ((bits & 0x7fff) == 0x7c00) {
      ASSERT_EQ(value, (bits & 0x8000) != 0 ? -kInfinity : kInfinity);
    } else {
      ASSERT_EQ(static_cast<double>(value), float16_value(bits)) << bits;
      ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
    }
    ASSERT_EQ(float_to_float16(value), bits);
  }
}

TEST(Float16, RoundsToNearestTiesToEven) {
  // Neighbours a < b of the positive range; 65504's upper neighbour is infinity, as if it were
  // 65536.
  for (unsigned bits = 0; bits < 0x7c00; ++bits) {
    const double a = float16_value(bits);
    const double b = float16_value(bits + 1);
    const float middle = static_cast<float>((a + b) / 2);
    const uint16_t even = static_cast<uint16_t>((bits & 1) == 0 ? bits : bits + 1);
    ASSERT_EQ(float_to_float16(middle), even) << bits;
    ASSERT_EQ(float_to_float16(std::nextafter(middle, 0.0f)), bits) << bits;
    ASSERT_EQ(float_to_float16(std::nextafter(middle, kInfinity)), bits + 1) << bits;
    ASSERT_EQ(float_to_float16(-middle), even | 0x8000) << bits;
  }
}

TEST(Float16, ExtremesOfFloat) {
  EXPECT_EQ(float_to_float16(std::numeric_limits<float>::max()), 0x7c00);
  EXPECT_EQ(float_to_float16(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_EQ(float_to_float16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(float_to_float16(-0.0f), 0x8000);
}

TEST(Bfloat16, EveryPatternSurvives) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = bfloat16_to_float(static_cast<uint16_t>(bits));
    ASSERT_TRUE(std::isnan(value) || std::bit_cast<uint32_t>(value) == bits << 16);
    const uint16_t back = float_to_bfloat16(value);
    ASSERT_TRUE(std::isnan(value) ? std::isnan(bfloat16_to_float(back)) : back == bits) << bits;
  }
}

TEST(Bfloat16, RoundsToNearestTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const uint32_t middle = bits << 16 | 0x8000;
    const uint32_t even = (bits & 1) == 0 ? bits : bits + 1;
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle)), even) << bits;
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle - 1)), bits) << bits;
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle + 1)), bits + 1) << bits;
  }
}

// Rounding a payload of all ones up must not turn a NaN into something else.
TEST(Bfloat16, NanStaysNan) {
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(bits)))));
  }
}

}  // namespace
}  // namespace khorus::base
