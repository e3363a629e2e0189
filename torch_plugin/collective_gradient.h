// What makes a blocking collective differentiable.
//
// The gradient of a collective is a collective, too: that of the sum of all ranks' losses. So all
// ranks run the same backwards in the same order, which holds when they build the same graph.
// Called from user threads; the backward runs on whatever thread runs backward().
#pragma once

#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

namespace khorus::torch {

using Tensors = std::vector<at::Tensor>;

// True when autograd is to record what is done with some of the tensors.
bool wants_gradient(const Tensors& tensors);

// The outputs of `forward`, recorded as a function of `inputs`. `backward` is given one gradient
// per output (zeros for one that was not used) and returns one per input.
Tensors differentiable(const Tensors& inputs, const std::function<Tensors()>& forward,
                       std::function<Tensors(const Tensors&)> backward);

// The name of the operation that the backward of `name` runs; empty: no name either.
std::string gradient_name(const std::string& name);

}  // namespace khorus::torch
