// The kernels of the nccl backend: body.h on every thread of the grid, for each kind of element, and
// adasum_body.h on every block.
#include "backends/nccl/kernels/adasum_body.h"
#include "backends/nccl/kernels/body.h"

namespace khorus::backends::nccl {

#define KHORUS_KERNEL(name, Element)                                                       \
  extern "C" __global__ void __launch_bounds__(kThreads)                                   \
      khorus_##name(const Move* moves, uint32_t count, Scaling scaling) {                  \
    run_thread<Element>(moves, count, scaling, blockIdx.x, threadIdx.x);                   \
  }
KHORUS_KERNELS(KHORUS_KERNEL)
#undef KHORUS_KERNEL

#define KHORUS_KERNEL(name, Work)                                                      \
  extern "C" __global__ void __launch_bounds__(kThreads) khorus_##name(const Work work) { \
    run_block(work, {blockIdx.x, gridDim.x});                                          \
  }
KHORUS_ADASUM_KERNELS(KHORUS_KERNEL)
#undef KHORUS_KERNEL

}  // namespace khorus::backends::nccl
