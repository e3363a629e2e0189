// Module: the kernels in the context of one device.
//
// Thread rule: one thread at a time. Every function but the destructor REQUIRES that the context is
// current.
#pragma once

#include <array>
#include <memory>

#include "backends/nccl/driver.h"
#include "backends/nccl/kernels/adasum_work.h"
#include "backends/nccl/kernels/move.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::backends::nccl {

class Module {
 public:
  // Unavailable says why there is none: built without nvcc, or the device is too old.
  static Result<std::unique_ptr<Module>> load(const Driver& driver, CUcontext context);
  ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // What lies at `moves`, in the device's memory, when the stream comes there.
  struct Launch {
    CUdeviceptr moves;
    uint32_t count;
    uint64_t chunks;  // of all moves
    Scaling scaling;
  };
  CUresult copy(const Launch& launch, CUstream stream) const;
  CUresult scale(DataType dtype, const Launch& launch, CUstream stream) const;
  // A step of Adasum.
  template <class Work>
  CUresult launch(const Work& work, CUstream stream) const {
    Work argument = work;
    void* parameters[] = {&argument};
    return run(adasum_functions_[kKernelOf<Work>], blocks_of(work), parameters, stream);
  }

 private:
  Module(const Driver& driver, CUcontext context) : driver_(driver), context_(context) {}
  CUresult run(CUfunction function, const Launch& launch, CUstream stream) const;
  CUresult run(CUfunction function, uint32_t blocks, void** parameters, CUstream stream) const;

  const Driver& driver_;
  const CUcontext context_;
  CUmodule module_ = nullptr;
  std::array<CUfunction, kDataTypeCount + 1> functions_{};  // by DataType, then the copy
  std::array<CUfunction, kAdasumKernelCount> adasum_functions_{};
};

}  // namespace khorus::backends::nccl
