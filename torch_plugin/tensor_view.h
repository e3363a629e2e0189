// Tensor views: what the engine sees of a libtorch tensor, and the tensor made of what it returns.
//
// Pure functions; any thread.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "khorus/torch.h"

namespace khorus::torch {

// The view of a contiguous tensor of the CPU or of a GPU; it shares the ownership of the memory.
// What is in the current stream of a GPU by now comes before the operation. Throws
// Error(InvalidArgument), naming `what`, for an undefined, sparse or non-contiguous tensor, a
// device or a dtype that Khorus does not have.
TensorView view_of(const Tensor& tensor, const std::string& what);

// A tensor over the engine's memory, on the device where that is; it keeps `view.owner` until it is
// freed, on a GPU until the current stream has passed that.
Tensor tensor_of(const TensorView& view);

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

[[noreturn]] void throw_invalid(const std::string& message);

// options.engine, or the default engine.
Engine& engine_of(Engine* engine);

}  // namespace khorus::torch
