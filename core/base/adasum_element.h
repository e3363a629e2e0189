// The arithmetic of Adasum on one element, for the CPU and for kernels of GPUs; what Adasum is says
// core/runtime/adasum.h.
//
// Thread rule: pure functions.
#pragma once

namespace khorus::base {

// Dot products of two vectors, or of parts of them: sums that are still to be added up.
struct AdasumDots {
  double ab;
  double aa;
  double bb;

  constexpr void add(double a, double b) {
    ab += a * b;
    aa += a * a;
    bb += b * b;
  }
  constexpr void add(const AdasumDots& other) {
    ab += other.ab;
    aa += other.aa;
    bb += other.bb;
  }
};

// What each vector counts for. A vector of zeros shares nothing.
struct AdasumWeights {
  double a;
  double b;
};

constexpr AdasumWeights adasum_weights(const AdasumDots& dots) {
  return {dots.aa > 0 ? 1 - dots.ab / (2 * dots.aa) : 1,
          dots.bb > 0 ? 1 - dots.ab / (2 * dots.bb) : 1};
}

template <class T>
constexpr T adasum_element(const AdasumWeights& weights, T a, T b) {
  return static_cast<T>(weights.a * static_cast<double>(a) + weights.b * static_cast<double>(b));
}

}  // namespace khorus::base
