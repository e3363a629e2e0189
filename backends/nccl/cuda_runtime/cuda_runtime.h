// What nccl.h needs of the CUDA run-time: the name of a stream. The real header wants compiler
// headers that torch's wheels do not bring; this folder stands before it in the include path. A
// cudaStream_t is the driver's CUstream, as CUDA's documentation says.
#pragma once

#include <stddef.h>

typedef struct CUstream_st* cudaStream_t;
