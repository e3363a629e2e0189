// How one element is scaled: the arithmetic of scale() and divide() (reduce.h) for integers.
//
// constexpr, so that the kernels of a GPU are compiled from the same words and have the same bits.
#pragma once

#include <cstdint>
#include <limits>

namespace khorus::base {

// Toward zero, saturating; NaN becomes 0. The limits of int64 round up to 2^63, which no int64
// reaches, hence the closed comparisons.
template <class T>
constexpr T truncate(double value) {
  using Limits = std::numeric_limits<T>;
  if (value >= static_cast<double>(Limits::max())) return Limits::max();
  if (value <= static_cast<double>(Limits::min())) return Limits::min();
  return value == value ? static_cast<T>(value) : T{0};
}

template <class T>
constexpr T scaled_integer(T value, double factor) {
  return truncate<T>(static_cast<double>(value) * factor);
}

// As the integers 0 and 1: a conversion of 0.5 to bool would be true.
constexpr uint8_t scaled_bool(uint8_t value, double factor) {
  return truncate<uint8_t>((value != 0 ? 1.0 : 0.0) * factor) != 0 ? 1 : 0;
}

// Toward zero. In 32 bits where they are enough, which a GPU does in a quarter of the time.
// REQUIRES: divisor > 0.
template <class T>
constexpr T divided_integer(T value, int32_t divisor) {
  if constexpr (sizeof(T) > sizeof(int32_t)) {
    return static_cast<T>(value / divisor);
  } else {
    return static_cast<T>(static_cast<int32_t>(value) / divisor);
  }
}

}  // namespace khorus::base
