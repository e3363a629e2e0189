// What the optimizer uses of the collectives beyond torch.h.
//
// Called from user threads.
#pragma once

#include <vector>

#include "torch_plugin/tensor_view.h"

namespace khorus::torch {

// An in-place grouped allreduce whose members have names of their own. options.name names the
// group; empty: made from the members' names.
std::vector<Handle> start_group_allreduce(const NamedTensors& tensors,
                                          const ReduceOptions& options);

}  // namespace khorus::torch
