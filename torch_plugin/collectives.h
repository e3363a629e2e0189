// What the front end's parts use of each other's collectives beyond torch.h.
//
// Called from user threads.
#pragma once

#include <vector>

#include "torch_plugin/tensor_view.h"

namespace khorus::torch {

// What the core takes of them: all but name and compression.
khorus::AllreduceOptions core_options(const ReduceOptions& options);

// An in-place grouped allreduce whose members have names of their own. options.name names the
// group; empty: made from the members' names.
std::vector<Handle> start_group_allreduce(const NamedTensors& tensors,
                                          const ReduceOptions& options);

}  // namespace khorus::torch
