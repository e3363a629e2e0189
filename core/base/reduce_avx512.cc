// The reduction loops for AVX-512; see reduce_loops.h and reduce_kernels.h.
#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/base/half.h"
#include "core/base/reduce_kernels.h"

#define KHORUS_TARGET \
  [[gnu::target("avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")]]
#define KHORUS_PATH avx512_path
#define KHORUS_LANES 16
// Last, because it is compiled as the three lines above say.
#include "core/base/reduce_loops.h"

namespace khorus::base {

const ReduceKernels& avx512_kernels() noexcept { return avx512_path::kKernels; }

}  // namespace khorus::base
