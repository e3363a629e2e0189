// Words about a khorus_op that every backend uses.
#pragma once

#include <cstddef>
#include <string>

#include "khorus/backend.h"
#include "khorus/types.h"

namespace khorus::backends {

inline OpKind kind_of(const khorus_op& op) { return static_cast<OpKind>(op.kind); }

// Bytes per element.
inline size_t width_of(const khorus_op& op) {
  return element_size(static_cast<DataType>(op.dtype));
}

inline bool is_float(DataType dtype) {
  return dtype >= DataType::kFloat16 && dtype <= DataType::kFloat64;
}

inline const std::byte* input_at(const khorus_op& op, size_t bytes) {
  return static_cast<const std::byte*>(op.input) + bytes;
}
inline std::byte* output_at(const khorus_op& op, size_t bytes) {
  return static_cast<std::byte*>(op.output) + bytes;
}

// "allreduce of 12 float32"
inline std::string describe(const khorus_op& op) {
  return std::string(to_string(kind_of(op))) + " of " + std::to_string(op.count) + " " +
         std::string(to_string(static_cast<DataType>(op.dtype)));
}

}  // namespace khorus::backends
