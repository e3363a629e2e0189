// The kernels as nvcc made them, inside this library: an image that the driver loads. Which of the
// two sources there is, is CMake's choice: image.cc, or no_image.cc where there was no nvcc.
#pragma once

namespace khorus::backends::nccl {

// Null: built without nvcc.
const void* kernel_image();

}  // namespace khorus::backends::nccl
