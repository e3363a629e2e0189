// Driver: CUDA's driver (libcuda.so.1), opened at run time, and a device's primary context.
//
// The driver's interface, not the run-time's: it is the same in every version of CUDA, so it does
// not matter which run-time torch brings; streams, events, memory and the primary context of the
// two are the same things. A process that has no GPU opens no library but this one, and fails.
//
// Thread rule: load() from any thread; the table is constant afterwards and lives for ever. A
// DeviceScope is used by the thread that made it.
#pragma once

#include <cuda.h>

#include <string>

#include "khorus/status.h"

namespace khorus::backends::nccl {

struct Driver {
  // Unavailable says that there is no driver, or no device. Starts the driver.
  static Result<const Driver*> load();

  // "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"
  std::string describe(CUresult result) const;

  int devices = 0;  // that this process may use
  int version = 0;  // of CUDA that the driver can run, 13000 for 13.0

  decltype(&::cuInit) init = nullptr;
  decltype(&::cuDriverGetVersion) driver_get_version = nullptr;
  decltype(&::cuGetErrorName) get_error_name = nullptr;
  decltype(&::cuGetErrorString) get_error_string = nullptr;
  decltype(&::cuDeviceGetCount) device_get_count = nullptr;
  decltype(&::cuDeviceGet) device_get = nullptr;
  decltype(&::cuDeviceGetUuid) device_get_uuid = nullptr;
  decltype(&::cuDevicePrimaryCtxRetain) primary_ctx_retain = nullptr;
  decltype(&::cuDevicePrimaryCtxRelease) primary_ctx_release = nullptr;
  decltype(&::cuCtxPushCurrent) ctx_push_current = nullptr;
  decltype(&::cuCtxPopCurrent) ctx_pop_current = nullptr;
  decltype(&::cuCtxGetStreamPriorityRange) ctx_get_stream_priority_range = nullptr;
  decltype(&::cuStreamCreateWithPriority) stream_create_with_priority = nullptr;
  decltype(&::cuStreamDestroy) stream_destroy = nullptr;
  decltype(&::cuStreamSynchronize) stream_synchronize = nullptr;
  decltype(&::cuStreamWaitEvent) stream_wait_event = nullptr;
  decltype(&::cuEventCreate) event_create = nullptr;
  decltype(&::cuEventDestroy) event_destroy = nullptr;
  decltype(&::cuEventRecord) event_record = nullptr;
  decltype(&::cuEventQuery) event_query = nullptr;
  decltype(&::cuEventElapsedTime) event_elapsed_time = nullptr;
  decltype(&::cuLaunchHostFunc) launch_host_func = nullptr;
  decltype(&::cuMemAlloc) mem_alloc = nullptr;
  decltype(&::cuMemFree) mem_free = nullptr;
  decltype(&::cuMemsetD8Async) mem_set = nullptr;
  decltype(&::cuMemHostAlloc) mem_host_alloc = nullptr;
  decltype(&::cuMemFreeHost) mem_free_host = nullptr;
  decltype(&::cuMemcpyDtoDAsync) memcpy_device_to_device = nullptr;
  decltype(&::cuMemcpyDtoHAsync) memcpy_device_to_host = nullptr;
  decltype(&::cuMemcpyHtoDAsync) memcpy_host_to_device = nullptr;
  decltype(&::cuModuleLoadData) module_load_data = nullptr;
  decltype(&::cuModuleGetFunction) module_get_function = nullptr;
  decltype(&::cuModuleUnload) module_unload = nullptr;
  decltype(&::cuLaunchKernel) launch_kernel = nullptr;
};

// Makes a context the calling thread's while it lives.
class DeviceScope {
 public:
  DeviceScope(const Driver& driver, CUcontext context) : driver_(driver) {
    pushed_ = driver_.ctx_push_current(context) == CUDA_SUCCESS;
  }
  ~DeviceScope() {
    CUcontext ignored = nullptr;
    if (pushed_) driver_.ctx_pop_current(&ignored);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  const Driver& driver_;
  bool pushed_ = false;
};

}  // namespace khorus::backends::nccl
