// See primary_context.h; "Primary Context Management" of the "CUDA Driver API".
#include "backends/nccl/primary_context.h"

#include <string>

namespace khorus::backends::nccl {

Result<std::unique_ptr<PrimaryContext>> PrimaryContext::of(const Driver& driver, int ordinal) {
  std::unique_ptr<PrimaryContext> made(new PrimaryContext(driver, ordinal));
  Status status = made->status_of(driver.device_get(&made->device_, ordinal), "cuDeviceGet");
  if (!status.ok()) return status;
  status = made->status_of(driver.primary_ctx_retain(&made->context_, made->device_),
                           "cuDevicePrimaryCtxRetain");
  if (!status.ok()) return status;
  return made;
}

PrimaryContext::~PrimaryContext() {
  if (context_ != nullptr) driver_.primary_ctx_release(device_);
}

Result<CUstream> PrimaryContext::make_stream() const {
  int least = 0;
  int greatest = 0;
  Status status = status_of(driver_.ctx_get_stream_priority_range(&least, &greatest),
                            "cuCtxGetStreamPriorityRange");
  if (!status.ok()) return status;
  CUstream stream = nullptr;
  status = status_of(driver_.stream_create_with_priority(&stream, CU_STREAM_NON_BLOCKING, greatest),
                     "cuStreamCreateWithPriority");
  if (!status.ok()) return status;
  return stream;
}

Status PrimaryContext::status_of(CUresult result, const char* what) const {
  if (result == CUDA_SUCCESS) return {};
  return Status(StatusCode::kAborted, "GPU " + std::to_string(ordinal_) + ": " + what +
                                          " failed: " + driver_.describe(result));
}

}  // namespace khorus::backends::nccl
