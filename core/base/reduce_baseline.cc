// The reduction loops with what every x86-64 processor has (SSE2); see reduce_loops.h and
// reduce_kernels.h.
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/base/half.h"
#include "core/base/reduce_kernels.h"

#define KHORUS_TARGET
#define KHORUS_PATH baseline_path
#define KHORUS_LANES 0
// Last, because it is compiled as the three lines above say.
#include "core/base/reduce_loops.h"

namespace khorus::base {

const ReduceKernels& baseline_kernels() noexcept { return baseline_path::kKernels; }

}  // namespace khorus::base
