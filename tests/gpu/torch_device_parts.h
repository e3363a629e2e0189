// What the parts of the tests' device for torch share: torch_device.cc has streams, events and
// memory, torch_operations.cc what torch does there, torch_sparse.cc that with sparse tensors,
// torch_generator.cc random numbers.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <cuda.h>

namespace khorus::gpu_double {

inline constexpr auto kDevice = at::kPrivateUse1;

// Of the calling thread.
int current_device();
// Returns the one before.
int exchange_device(int device);
// That of the calling thread's current stream of this device.
CUstream current_handle(int device);
// Counts.
void host_waits_for(CUstream stream, int device);
c10::Allocator& device_allocator();
const at::Generator& default_generator(int device);
// One of the CPU, which gives the numbers of the next operation.
at::Generator generator_for_operation(at::Generator generator);

// The driver's context of a device is current while this lives.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
};

}  // namespace khorus::gpu_double
