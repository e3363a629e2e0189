// The double of CUDA's driver, libcuda.so.1: the functions that the nccl backend and its tests use,
// over machine.h. The prototypes are those of cuda.h.
//
// KHORUS_DOUBLE_DEVICES: how many devices there are (8).
// KHORUS_DOUBLE_MEMORY: the bytes of memory that they have together (64 GiB).
// KHORUS_DOUBLE_NO_MODULES: no module can be loaded, as on a device older than what it is for.
#include <cuda.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/gpu/double/kernels.h"
#include "tests/gpu/double/machine.h"

using namespace khorus::gpu_double;

// What the handles point at.
struct CUctx_st {
  int device = 0;
  StreamPtr default_stream;
};
struct CUstream_st {
  StreamPtr stream;
};
struct CUmod_st {
  CUcontext context = nullptr;
};
struct CUevent_st {
  bool is_timed = false;
  std::mutex mutex;
  Event event;
};

namespace {

int device_count() {
  const char* const text = std::getenv("KHORUS_DOUBLE_DEVICES");
  return text == nullptr ? 8 : std::atoi(text);
}

// Never destroyed, as machine.cc's.
struct Handles {
  std::mutex mutex;
  std::vector<CUcontext> contexts;  // by device
  std::set<CUstream> streams;
  std::set<CUevent> events;
  std::set<CUmodule> modules;
};
Handles& handles() {
  static Handles* const all = new Handles;
  return *all;
}

thread_local std::vector<CUcontext> t_contexts;

CUcontext context_of(int device) {
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  all.contexts.resize(static_cast<size_t>(device_count()));
  CUcontext& context = all.contexts[static_cast<size_t>(device)];
  if (context == nullptr) {
    context = new CUctx_st{device, make_stream("the default stream")};
  }
  return context;
}

bool is_known(CUstream stream) {
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  return stream == nullptr || all.streams.count(stream) > 0;
}

CUevent_st& checked(CUevent event) {
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  if (all.events.count(event) == 0) violation("an event is used that does not exist");
  return *event;
}

Event copy_of(CUevent event) {
  CUevent_st& one = checked(event);
  const std::scoped_lock lock(one.mutex);
  return one.event;
}

const void* as_pointer(CUdeviceptr address) { return reinterpret_cast<const void*>(address); }

CUresult copy(const char* what, const void* to, const void* from, size_t bytes, CUstream stream) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  std::byte* const target = view_of(to, bytes);
  const std::byte* const source = view_of(from, bytes);
  if (target < source + bytes && source < target + bytes && bytes > 0) {
    violation(std::string(what) + ": source and destination overlap");
  }
  enqueue(stream_of(stream), what, {{from, bytes, false}, {to, bytes, true}},
          [=] { std::memcpy(target, source, bytes); });
  return CUDA_SUCCESS;
}

}  // namespace

namespace khorus::gpu_double {

StreamPtr stream_of(void* handle) {
  const auto stream = static_cast<CUstream>(handle);
  if (!is_known(stream)) violation("a stream is used that does not exist");
  if (stream != nullptr) return stream->stream;
  if (t_contexts.empty()) violation("the default stream of no context is used");
  return t_contexts.back()->default_stream;
}

}  // namespace khorus::gpu_double

extern "C" {

#pragma GCC visibility push(default)

CUresult cuInit(unsigned int) { return device_count() > 0 ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
CUresult cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult, const char** text) {
  *text = "CUDA_ERROR_OF_THE_DOUBLE";
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char** text) {
  *text = "an error of the double";
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) {
  *count = device_count();
  return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (ordinal < 0 || ordinal >= device_count()) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  std::memset(uuid->bytes, 0, sizeof(uuid->bytes));
  uuid->bytes[0] = static_cast<char>(device + 1);
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  *context = context_of(device);
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent(CUcontext context) {
  t_contexts.push_back(context);
  return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext* context) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *context = t_contexts.back();
  t_contexts.pop_back();
  return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *device = t_contexts.back()->device;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned int flags, int) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (flags != CU_STREAM_NON_BLOCKING) violation("a stream would wait for the default stream");
  *stream = new CUstream_st{make_stream("stream")};
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  all.streams.insert(*stream);
  return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
  if (stream == nullptr || !is_known(stream))
    violation("a stream is destroyed that does not exist");
  end_stream(stream->stream);
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  all.streams.erase(stream);
  delete stream;
  return CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int) {
  wait_in_stream(stream_of(stream), copy_of(event));
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
  Event now;
  record(stream_of(stream), now);
  host_waits(now);
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned int flags) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *event = new CUevent_st;
  (*event)->is_timed = (flags & CU_EVENT_DISABLE_TIMING) == 0;
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  all.events.insert(*event);
  return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) {
  CUevent_st& one = checked(event);
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  all.events.erase(&one);
  delete &one;
  return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  CUevent_st& one = checked(event);
  const std::scoped_lock lock(one.mutex);
  record(stream_of(stream), one.event);
  return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent event) {
  return host_sees(copy_of(event)) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
  if (!checked(from).is_timed || !checked(to).is_timed) return CUDA_ERROR_INVALID_HANDLE;
  const std::optional<double> between = milliseconds_between(copy_of(from), copy_of(to));
  if (!between) return CUDA_ERROR_NOT_READY;
  *milliseconds = static_cast<float>(*between);
  return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) {
  host_waits(copy_of(event));
  return CUDA_SUCCESS;
}
CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  enqueue(stream_of(stream), "a host function", {}, [=] { function(data); });
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *address = reinterpret_cast<CUdeviceptr>(allocate_device(bytes));
  return *address == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult cuMemGetInfo(size_t* free, size_t* total) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  const DeviceMemory memory = device_memory();
  *free = memory.free;
  *total = memory.total;
  return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr address) {
  return free_memory(reinterpret_cast<void*>(address)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  expect_device_memory("a memset", as_pointer(to), bytes);
  std::byte* const target = view_of(as_pointer(to), bytes);
  enqueue(stream_of(stream), "a memset", {{as_pointer(to), bytes, true}},
          [=] { std::memset(target, value, bytes); });
  return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void** address, size_t bytes, unsigned int) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *address = allocate_pinned(bytes);
  return *address == nullptr ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void* address) {
  return free_memory(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  expect_device_memory("a copy on the device", as_pointer(from), bytes);
  expect_device_memory("a copy on the device", as_pointer(to), bytes);
  return copy("a copy on the device", as_pointer(to), as_pointer(from), bytes, stream);
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  expect_device_memory("a copy from the device", as_pointer(from), bytes);
  return copy("a copy from the device", to, as_pointer(from), bytes, stream);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  expect_device_memory("a copy to the device", as_pointer(to), bytes);
  note_upload(as_pointer(to), from, bytes);
  return copy("a copy to the device", as_pointer(to), from, bytes, stream);
}

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (std::getenv("KHORUS_DOUBLE_NO_MODULES") != nullptr) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  *module = new CUmod_st{t_contexts.back()};
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  all.modules.insert(*module);
  return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) {
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  if (all.modules.erase(module) == 0) violation("a module is unloaded that is not loaded");
  delete module;
  return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  Handles& all = handles();
  const std::scoped_lock lock(all.mutex);
  if (all.modules.count(module) == 0) violation("a module is asked that is not loaded");
  *function = find_kernel(name);
  return *function == nullptr ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}
CUresult cuLaunchKernel(CUfunction function, unsigned int blocks, unsigned int blocks_y,
                        unsigned int blocks_z, unsigned int threads, unsigned int threads_y,
                        unsigned int threads_z, unsigned int, CUstream stream, void** parameters,
                        void**) {
  if (t_contexts.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  if (blocks_y * blocks_z * threads_y * threads_z != 1)
    violation("the double knows grids of one dimension");
  launch(function, {blocks, threads}, parameters, stream_of(stream));
  return CUDA_SUCCESS;
}

#pragma GCC visibility pop

}  // extern "C"
