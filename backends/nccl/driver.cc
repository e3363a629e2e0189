// See driver.h; "CUDA Driver API".
#include "backends/nccl/driver.h"

#include <dlfcn.h>

#include <memory>

#include "backends/nccl/symbols.h"

// The name that a macro of cuda.h gives a function: cuMemAlloc is called cuMemAlloc_v2.
#define KHORUS_NAME_(name) #name
#define KHORUS_NAME(name) KHORUS_NAME_(name)

namespace khorus::backends::nccl {
namespace {

constexpr const char* kName = "libcuda.so.1";

void look_up(Symbols& symbols, Driver* driver) {
  symbols.need(driver->init, KHORUS_NAME(cuInit));
  symbols.need(driver->driver_get_version, KHORUS_NAME(cuDriverGetVersion));
  symbols.need(driver->get_error_name, KHORUS_NAME(cuGetErrorName));
  symbols.need(driver->get_error_string, KHORUS_NAME(cuGetErrorString));
  symbols.need(driver->device_get_count, KHORUS_NAME(cuDeviceGetCount));
  symbols.need(driver->device_get, KHORUS_NAME(cuDeviceGet));
  symbols.need(driver->device_get_uuid, KHORUS_NAME(cuDeviceGetUuid));
  symbols.need(driver->primary_ctx_retain, KHORUS_NAME(cuDevicePrimaryCtxRetain));
  symbols.need(driver->primary_ctx_release, KHORUS_NAME(cuDevicePrimaryCtxRelease));
  symbols.need(driver->ctx_push_current, KHORUS_NAME(cuCtxPushCurrent));
  symbols.need(driver->ctx_pop_current, KHORUS_NAME(cuCtxPopCurrent));
  symbols.need(driver->ctx_get_stream_priority_range, KHORUS_NAME(cuCtxGetStreamPriorityRange));
  symbols.need(driver->stream_create_with_priority, KHORUS_NAME(cuStreamCreateWithPriority));
  symbols.need(driver->stream_destroy, KHORUS_NAME(cuStreamDestroy));
  symbols.need(driver->stream_synchronize, KHORUS_NAME(cuStreamSynchronize));
  symbols.need(driver->stream_wait_event, KHORUS_NAME(cuStreamWaitEvent));
  symbols.need(driver->event_create, KHORUS_NAME(cuEventCreate));
  symbols.need(driver->event_destroy, KHORUS_NAME(cuEventDestroy));
  symbols.need(driver->event_record, KHORUS_NAME(cuEventRecord));
  symbols.need(driver->event_query, KHORUS_NAME(cuEventQuery));
  symbols.need(driver->event_elapsed_time, KHORUS_NAME(cuEventElapsedTime));
  symbols.need(driver->launch_host_func, KHORUS_NAME(cuLaunchHostFunc));
  symbols.need(driver->mem_alloc, KHORUS_NAME(cuMemAlloc));
  symbols.need(driver->mem_free, KHORUS_NAME(cuMemFree));
  symbols.need(driver->mem_set, KHORUS_NAME(cuMemsetD8Async));
  symbols.need(driver->mem_host_alloc, KHORUS_NAME(cuMemHostAlloc));
  symbols.need(driver->mem_free_host, KHORUS_NAME(cuMemFreeHost));
  symbols.need(driver->memcpy_device_to_device, KHORUS_NAME(cuMemcpyDtoDAsync));
  symbols.need(driver->memcpy_device_to_host, KHORUS_NAME(cuMemcpyDtoHAsync));
  symbols.need(driver->memcpy_host_to_device, KHORUS_NAME(cuMemcpyHtoDAsync));
  symbols.need(driver->module_load_data, KHORUS_NAME(cuModuleLoadData));
  symbols.need(driver->module_get_function, KHORUS_NAME(cuModuleGetFunction));
  symbols.need(driver->module_unload, KHORUS_NAME(cuModuleUnload));
  symbols.need(driver->launch_kernel, KHORUS_NAME(cuLaunchKernel));
}

// The reason why there is nothing to work with; ok otherwise.
Status start(Driver* driver) {
  CUresult result = driver->init(0);
  if (result == CUDA_SUCCESS) result = driver->device_get_count(&driver->devices);
  if (result == CUDA_ERROR_NO_DEVICE || (result == CUDA_SUCCESS && driver->devices == 0)) {
    return Status(StatusCode::kUnavailable,
                  "the NVIDIA driver shows this process no GPU; look at nvidia-smi, and at "
                  "CUDA_VISIBLE_DEVICES, which hides them when it is set and empty");
  }
  if (result != CUDA_SUCCESS) {
    return Status(StatusCode::kUnavailable,
                  "the NVIDIA driver does not start: " + driver->describe(result));
  }
  driver->driver_get_version(&driver->version);
  return {};
}

Result<const Driver*> open_driver() {
  void* const handle = ::dlopen(kName, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const reason = ::dlerror();
    return Status(StatusCode::kUnavailable,
                  std::string("there is no NVIDIA driver on this machine (") +
                      (reason == nullptr ? kName : reason) +
                      "); tensors of the CPU need none, the other backends carry them");
  }
  auto driver = std::make_unique<Driver>();
  Symbols symbols(handle);
  look_up(symbols, driver.get());
  if (!symbols.missing().empty()) {
    return Status(StatusCode::kUnavailable, std::string(kName) + " has no " +
                                                enumerate(symbols.missing()) +
                                                "; install a driver for CUDA 12 or later");
  }
  if (Status status = start(driver.get()); !status.ok()) return status;
  return driver.release();  // lives for ever
}

}  // namespace

Result<const Driver*> Driver::load() {
  static const Result<const Driver*> loaded = open_driver();
  return loaded;
}

std::string Driver::describe(CUresult result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (get_error_name(result, &name) != CUDA_SUCCESS || name == nullptr) {
    return "CUDA error " + std::to_string(static_cast<int>(result));
  }
  get_error_string(result, &text);
  return std::string(name) + (text == nullptr ? "" : ": " + std::string(text));
}

}  // namespace khorus::backends::nccl
