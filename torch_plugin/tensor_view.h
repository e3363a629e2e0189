// Tensor views: what the engine sees of a libtorch tensor, and the tensor made of what it returns.
//
// Pure functions; any thread.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "khorus/torch.h"

namespace khorus::torch {

// The view of a contiguous tensor; it shares the ownership of the memory. Throws
// Error(InvalidArgument), naming `what`, for an undefined, sparse or non-contiguous tensor or a
// dtype that Khorus does not have.
TensorView view_of(const Tensor& tensor, const std::string& what);

// A CPU tensor over the engine's memory; it keeps `view.owner` until it is freed.
Tensor tensor_of(const TensorView& view);

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

[[noreturn]] void throw_invalid(const std::string& message);

// options.engine, or the default engine.
Engine& engine_of(Engine* engine);

}  // namespace khorus::torch
