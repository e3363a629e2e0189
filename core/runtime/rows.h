// Rows: tensors cut along their first dimension, as allgather, alltoall and reducescatter do.
//
// Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "khorus/types.h"

namespace khorus::runtime {

inline uint64_t elements_per_row(const Shape& shape) {
  uint64_t elements = 1;
  for (size_t i = 1; i < shape.size(); ++i) elements *= static_cast<uint64_t>(shape[i]);
  return elements;
}

inline uint64_t total(const std::vector<uint64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

// Rows that each rank keeps of a reducescatter: the first ranks get one more.
inline std::vector<int64_t> scattered_rows(int64_t rows, int size) {
  std::vector<int64_t> parts;
  for (int r = 0; r < size; ++r) parts.push_back(rows / size + (r < rows % size ? 1 : 0));
  return parts;
}

// Elements of so many rows, by rank.
inline std::vector<uint64_t> elements_of(const std::vector<int64_t>& rows, uint64_t per_row) {
  std::vector<uint64_t> counts;
  for (const int64_t count : rows) counts.push_back(static_cast<uint64_t>(count) * per_row);
  return counts;
}

}  // namespace khorus::runtime
