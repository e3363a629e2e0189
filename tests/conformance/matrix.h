// Which data types and counts the suite goes through, by world size.
//
// By default the larger worlds run with fewer of them; KHORUS_TEST_SOAK=1 runs all.
// ThreadSanitizer is slow and looks at who touches what when, not at values: there, fewer still.
// AddressSanitizer sees every type on two ranks; on more, where offsets matter, some of each width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "khorus/types.h"
#include "tests/conformance/reference.h"

namespace khorus::conformance {

#ifdef __SANITIZE_THREAD__
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

// Elements; several messages of a large operation, with a remainder.
inline constexpr size_t kLargeBlock = kThreadSanitizer ? 5003 : 300007;

inline constexpr ReduceOp kReductions[] = {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax,
                                           ReduceOp::kProduct};

inline bool soak() { return std::getenv("KHORUS_TEST_SOAK") != nullptr; }

// Under the sanitizers, worlds of 5 to 7 ranks add time and little else.
inline std::vector<int> world_sizes() {
  if ((kThreadSanitizer || kAddressSanitizer) && !soak()) return {1, 2, 3, 4, 8};
  return {1, 2, 3, 4, 5, 6, 7, 8};
}

inline std::vector<DataType> all_types() {
  std::vector<DataType> types;
  for (int i = 0; i < kDataTypeCount; ++i) types.push_back(static_cast<DataType>(i));
  return types;
}
inline std::vector<DataType> types_for(int size) {
  if (kThreadSanitizer) return {DataType::kInt16, DataType::kBfloat16};
  if (size <= 2 || soak()) return all_types();
  if (size == 3 && !kAddressSanitizer) return all_types();
  if (kAddressSanitizer || (size > 4 && size < 8))
    return {DataType::kInt16, DataType::kBfloat16, DataType::kFloat32};
  return {DataType::kInt8, DataType::kInt64, DataType::kFloat16, DataType::kBfloat16,
          DataType::kFloat32};
}
inline std::vector<size_t> counts_for(int size) {
  if (kThreadSanitizer) return {0, 7, 1000};
  if (size <= 4 || soak()) return {0, 1, 7, 1000, 65537};
  return {0, 7, 1000, 65537};
}

inline uint64_t seed_of(DataType dtype, size_t count, int rank) {
  return static_cast<uint64_t>(dtype) * 1000003 + count * 97 + static_cast<uint64_t>(rank) + 1;
}

inline std::vector<Bytes> inputs_of(DataType dtype, size_t count, int size) {
  std::vector<Bytes> inputs;
  for (int r = 0; r < size; ++r) {
    inputs.push_back(make_values(dtype, count, seed_of(dtype, count, r)));
  }
  return inputs;
}

inline std::string name_of(DataType dtype, ReduceOp op, size_t count) {
  return std::string(to_string(op)) + " of " + std::to_string(count) + " " +
         std::string(to_string(dtype));
}

// The counts of every rank, from one pattern; some have none.
inline std::vector<uint64_t> ragged_counts(int size, size_t unit, int pattern) {
  std::vector<uint64_t> counts;
  for (int r = 0; r < size; ++r) {
    counts.push_back(unit * static_cast<uint64_t>((r + pattern) % 3) +
                     static_cast<uint64_t>((r + pattern) % 2));
  }
  return counts;
}

}  // namespace khorus::conformance
