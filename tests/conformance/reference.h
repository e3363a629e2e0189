// What a reduction should give, computed in another way than the code under test.
//
// Integers: wrapping arithmetic in 64 bits, cut to size. Floats: in rank order in float32 (float64
// for float64), with conversions written for clearness; and, to judge those, in float64 with an
// error bound. Arrays are raw bytes.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "khorus/backend.h"
#include "khorus/types.h"

namespace khorus::conformance {

using Bytes = std::vector<std::byte>;

// Values for one rank, the same for the same arguments: the whole range of an integer type; floats
// between -2 and 2 whose products do not vanish; bool as 0 and 1.
Bytes make_values(DataType dtype, size_t count, uint64_t seed);

// Element i as float64, of any type.
double value_at(DataType dtype, const Bytes& bytes, size_t i);

// A reduction of what the ranks have; `expected` is in rank order.
struct Reduced {
  DataType dtype;
  ReduceOp op;
  const std::vector<Bytes>& inputs;
  const Bytes& expected;
};

// The bits that a reduction in rank order gives.
Bytes reduce_in_rank_order(DataType dtype, ReduceOp op, std::span<const Bytes> inputs);

// Whether `output` lies within the rounding error of the exact reduction, element by element; says
// which element does not. Integers and bool must be equal to reduce_in_rank_order().
::testing::AssertionResult is_close(DataType dtype, ReduceOp op, std::span<const Bytes> inputs,
                                    const Bytes& output);

// What a backend promises of a reduction: the bits of one in rank order; on a device, where the
// order is the library's, to be close.
::testing::AssertionResult is_promised(const khorus_backend& backend, const Reduced& what,
                                       const Bytes& output);

}  // namespace khorus::conformance
