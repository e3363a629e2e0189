// The reduction loops for AVX-512 with BF16; see reduce_loops.h and reduce_kernels.h.
#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/base/half.h"
#include "core/base/reduce_kernels.h"

#define KHORUS_TARGET                                 \
  [[gnu::target(                                      \
      "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl," \
      "avx512bf16,prefer-vector-width=512")]]
#define KHORUS_PATH avx512_bf16_path
#define KHORUS_LANES 16
#define KHORUS_BF16
// Last, because it is compiled as the lines above say.
#include "core/base/reduce_loops.h"

namespace khorus::base {

const ReduceKernels& avx512_bf16_kernels() noexcept { return avx512_bf16_path::kKernels; }

}  // namespace khorus::base
