// Tensors of a GPU in the front end: their streams, and how long their memory lives.
//
// Everything goes through c10's device-generic interface, so that no header of CUDA is needed and
// one binary runs with every build of libtorch.
//
// Any thread.
#pragma once

#include <c10/core/Event.h>

#include <memory>
#include <vector>

#include "khorus/torch.h"

namespace khorus::torch {

// Whether the device backend carries its tensors: those of CUDA.
bool is_gpu(const at::Device& device);
// For tests on machines without a GPU: the type of device that counts as CUDA from now on.
void count_as_gpu(at::DeviceType type);

Device device_of(const at::Device& device);
at::Device device_of(const Device& device);

// The stream in which the calling thread puts work on this GPU.
c10::Stream current_stream(const at::Device& gpu);
// An event for what is in that stream now.
c10::Event record_now(const at::Device& gpu, c10::EventFlag flag = c10::EventFlag::PYTORCH_DEFAULT);

// `memory` of the engine, for tensors on this GPU. As with torch's own memory, what is in the
// current stream when the last of them goes may still use it: so it is let go of only when that is
// done. Who uses such a tensor in another stream lets the current one wait for it, as always.
std::shared_ptr<void> kept_for_stream(std::shared_ptr<void> memory, const at::Device& gpu);

// The works are over, or, of tensors on a GPU: the current stream begins what it gets from now on
// after them. The first error in list order.
Status settle(const std::vector<WorkPtr>& works, const at::Device& device);

}  // namespace khorus::torch
