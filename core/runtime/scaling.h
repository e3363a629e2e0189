// What a reduction multiplies and divides by, on the CPU and on a device.
//
// Thread rule: pure functions.
#pragma once

#include "core/wire/message.h"
#include "khorus/types.h"

namespace khorus::runtime {

struct Scaling {
  double before = 1.0;  // of what every rank puts in
  double after = 1.0;   // of what came of it
  int32_t divisor = 1;  // of integers, exactly; after `after`
};

constexpr bool is_integer(DataType dtype) noexcept { return dtype <= DataType::kInt64; }

inline Scaling scaling_of(const wire::Request& request, int group_size) {
  Scaling scaling{request.prescale, request.postscale, 1};
  if (request.op != ReduceOp::kAverage) return scaling;
  if (is_integer(request.dtype) && request.postscale == 1.0) {
    scaling.divisor = group_size;
  } else {
    scaling.after = request.postscale / group_size;
  }
  return scaling;
}

}  // namespace khorus::runtime
