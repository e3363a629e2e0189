// See module.h; "Module Management" and "Execution Control" of the "CUDA Driver API".
#include "backends/nccl/kernels/module.h"

#include <iterator>
#include <string>

#include "backends/nccl/kernels/image.h"

namespace khorus::backends::nccl {
namespace {

#define KHORUS_KERNEL_NAME(name, Element) "khorus_" #name,
constexpr const char* kNames[] = {KHORUS_KERNELS(KHORUS_KERNEL_NAME)};
constexpr const char* kAdasumNames[] = {KHORUS_ADASUM_KERNELS(KHORUS_KERNEL_NAME)};
#undef KHORUS_KERNEL_NAME
static_assert(std::size(kNames) == kDataTypeCount + 1);

}  // namespace

Result<std::unique_ptr<Module>> Module::load(const Driver& driver, CUcontext context) {
  const void* const image = kernel_image();
  if (image == nullptr) {
    return Status(StatusCode::kUnavailable, "this Khorus was built without nvcc");
  }
  std::unique_ptr<Module> made(new Module(driver, context));
  CUresult result = driver.module_load_data(&made->module_, image);
  // All of them now: the driver brings each into the device only when it is asked for, and may wait
  // for the device then.
  const auto find = [&](CUfunction& function, const char* name) {
    if (result == CUDA_SUCCESS) result = driver.module_get_function(&function, made->module_, name);
  };
  for (size_t i = 0; i < std::size(kNames); ++i) find(made->functions_[i], kNames[i]);
  for (size_t i = 0; i < std::size(kAdasumNames); ++i) {
    find(made->adasum_functions_[i], kAdasumNames[i]);
  }
  if (result == CUDA_SUCCESS) return made;
  return Status(StatusCode::kUnavailable,
                "the driver does not load them for this GPU: " + driver.describe(result));
}

Module::~Module() {
  const DeviceScope scope(driver_, context_);
  if (module_ != nullptr) driver_.module_unload(module_);
}

CUresult Module::copy(const Launch& launch, CUstream stream) const {
  return run(functions_.back(), launch, stream);
}

CUresult Module::scale(DataType dtype, const Launch& launch, CUstream stream) const {
  return run(functions_[static_cast<size_t>(dtype)], launch, stream);
}

CUresult Module::run(CUfunction function, const Launch& launch, CUstream stream) const {
  Launch arguments = launch;
  void* parameters[] = {&arguments.moves, &arguments.count, &arguments.scaling};
  return run(function, static_cast<uint32_t>(launch.chunks), parameters, stream);
}

CUresult Module::run(CUfunction function, uint32_t blocks, void** parameters,
                     CUstream stream) const {
  return driver_.launch_kernel(function, blocks, 1, 1, kThreads, 1, 1, 0, stream, parameters,
                               nullptr);
}

}  // namespace khorus::backends::nccl
