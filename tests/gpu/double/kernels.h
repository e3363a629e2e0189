// The backend's kernels on the double: the bodies that nvcc compiles for the device
// (backends/nccl/kernels/body.h and adasum_body.h), compiled for the host and run for every thread
// of the grid.
//
// What a launch reads and writes is known when it is enqueued, from its arguments or from the table
// of its moves, which the host has just uploaded; so it takes part in the check of the order of
// streams. When it runs, the table must still be the same: pinned memory that was written to too
// early is found.
//
// Thread rule: every function from any thread.
#pragma once

#include <cuda.h>

#include "tests/gpu/double/machine.h"

namespace khorus::gpu_double {

// Null: there is no such kernel.
CUfunction find_kernel(const char* name);

struct Grid {
  unsigned int blocks;
  unsigned int threads;
};
void launch(CUfunction function, const Grid& grid, void** parameters, const StreamPtr& stream);

}  // namespace khorus::gpu_double
