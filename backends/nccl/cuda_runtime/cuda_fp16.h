// Empty: nccl.h includes it for types that its functions do not use (see cuda_runtime.h).
#pragma once
