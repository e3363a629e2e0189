// The reduction loops for AVX2 and F16C; see reduce_loops.h and reduce_kernels.h.
#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/base/half.h"
#include "core/base/reduce_kernels.h"

#define KHORUS_TARGET [[gnu::target("avx2,f16c")]]
#define KHORUS_PATH avx2_path
#define KHORUS_LANES 8
// Last, because it is compiled as the three lines above say.
#include "core/base/reduce_loops.h"

namespace khorus::base {

const ReduceKernels& avx2_kernels() noexcept { return avx2_path::kKernels; }

}  // namespace khorus::base
