// The random number generators of a rank: torch's default ones of the CPU and of its GPU.
//
// Through c10's device-generic interface: no header of CUDA is needed. Any thread.
#pragma once

#include <torch/types.h>

namespace khorus::torch {

// What torch calls its state: bytes on the CPU, how many depends on the kind of device.
::torch::Tensor generator_state(const at::Device& device);
// REQUIRES: as many bytes as generator_state() gives.
void set_generator_state(const at::Device& device, const ::torch::Tensor& state);

}  // namespace khorus::torch
