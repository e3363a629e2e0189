// PrimaryContext: a GPU as the driver's calls need it: the context that all who use it in this
// process share, kept for as long as this object lives, streams in it, and what a failure is
// called.
//
// Thread rule: any thread.
#pragma once

#include <memory>

#include "backends/nccl/driver.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

class PrimaryContext {
 public:
  static Result<std::unique_ptr<PrimaryContext>> of(const Driver& driver, int ordinal);
  // REQUIRES: the streams are destroyed.
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  const Driver& driver() const { return driver_; }
  CUcontext get() const { return context_; }

  // One that does not wait for the default stream, of the highest priority, so that what is in it
  // gets its place on the GPU between the kernels of the backward pass. REQUIRES: the context is
  // current (DeviceScope).
  Result<CUstream> make_stream() const;
  // Ok for CUDA_SUCCESS.
  Status status_of(CUresult result, const char* what) const;

 private:
  PrimaryContext(const Driver& driver, int ordinal) : driver_(driver), ordinal_(ordinal) {}

  const Driver& driver_;
  const int ordinal_;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
};

}  // namespace khorus::backends::nccl
