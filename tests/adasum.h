// Adasum as its definition says, and vectors to try it on.
//
// Maleki et al., "Scaling Distributed Training with Adaptive Summation", 2021.
#pragma once

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

namespace khorus::test {

// The sequential definition: pairs, then pairs of pairs. A power of two of vectors.
inline std::vector<double> adasum_of(std::vector<std::vector<double>> vectors) {
  while (vectors.size() > 1) {
    std::vector<std::vector<double>> next;
    for (size_t v = 0; v < vectors.size(); v += 2) {
      const auto& a = vectors[v];
      const auto& b = vectors[v + 1];
      const double ab = std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
      const double aa = std::inner_product(a.begin(), a.end(), a.begin(), 0.0);
      const double bb = std::inner_product(b.begin(), b.end(), b.begin(), 0.0);
      auto& sum = next.emplace_back(a.size());
      for (size_t i = 0; i < a.size(); ++i) {
        sum[i] = (1 - ab / (2 * aa)) * a[i] + (1 - ab / (2 * bb)) * b[i];
      }
    }
    vectors = std::move(next);
  }
  return vectors.front();
}

// A vector for each rank, of which no two are parallel or orthogonal.
inline std::vector<std::vector<double>> adasum_vectors(int ranks, size_t count) {
  std::vector<std::vector<double>> vectors(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    for (size_t i = 0; i < count; ++i) {
      vectors[static_cast<size_t>(rank)].push_back(
          std::sin(static_cast<double>(i) * 0.7 + 1) +
          0.5 * std::cos(rank * 3.0 + static_cast<double>(i)));
    }
  }
  return vectors;
}

}  // namespace khorus::test
