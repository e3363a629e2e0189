// See image.h. KHORUS_KERNEL_IMAGE is the file that nvcc made.
#include "backends/nccl/kernels/image.h"

asm(".pushsection .rodata\n"
    ".balign 64\n"
    ".globl khorus_kernel_image\n"
    ".hidden khorus_kernel_image\n"
    "khorus_kernel_image:\n"
    ".incbin \"" KHORUS_KERNEL_IMAGE
    "\"\n"
    ".popsection\n");

extern "C" const char khorus_kernel_image[];

namespace khorus::backends::nccl {

const void* kernel_image() { return khorus_kernel_image; }

}  // namespace khorus::backends::nccl
