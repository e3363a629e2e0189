// A device of the tests' own for torch: PrivateUse1 over the double of CUDA's driver (double/).
//
// Its memory, streams and events are the double's, so what an operation touches without being
// ordered after earlier uses ends the process. An operation of torch's is a task of the current
// stream that computes on the CPU, on the memory behind the double's addresses. Where only the task
// can say what shape a result has the host waits until it has run, but in the double's eyes it has
// not seen that: to read a value takes a copy to the CPU, which counts as a wait of the host.
//
// Memory is cached by stream, as torch's allocator for CUDA does: what a tensor frees, the next
// one of its stream gets at once.
//
// Thread rule: any thread.
#pragma once

#include <cstdint>

#define KHORUS_TORCH_DEVICE_API __attribute__((visibility("default")))

namespace khorus::gpu_double {

// Python finds them by name.
extern "C" {

// Registers the device with torch, once in a process.
KHORUS_TORCH_DEVICE_API void register_torch_device();
// What the driver calls a stream of torch's.
KHORUS_TORCH_DEVICE_API void* driver_stream(int device, int64_t stream);
// What comes later in the calling thread's stream of this device waits until `function` has
// returned.
KHORUS_TORCH_DEVICE_API void call_in_stream(int device, void (*function)(void*), void* data);
// How often the host has waited for the device: synchronize(), copies to the CPU, item().
KHORUS_TORCH_DEVICE_API uint64_t host_waits();

}  // extern "C"

}  // namespace khorus::gpu_double
