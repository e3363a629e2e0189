// An optimizer as a tree: JSON for its structure, options and counters, beside it named tensors.
//
// Made from what the optimizer writes into libtorch's archive, so one path serves every optimizer
// that libtorch can save. The archive names parameters by their address; the tree names them by the
// names given, or by their position. Pure functions; the optimizer's thread.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "khorus/torch.h"

namespace khorus::torch {

// By TensorImpl.
using ParameterNames = std::map<const void*, std::string>;

struct OptimizerTree {
  nlohmann::json structure;
  std::map<std::string, Tensor> tensors;  // "PARAMETER.VALUE", named in `structure`
};

OptimizerTree tree_of(::torch::optim::Optimizer& optimizer, const ParameterNames& names);

// The structure from its text. Throws nlohmann's exceptions, or Error for nesting without end.
nlohmann::json parse_tree(const std::string& text);

// What belongs to a parameter goes to its device. Throws Error(InvalidArgument), its message
// beginning with `what`, when the tree is not one of an optimizer of this kind with these
// parameters. The optimizer is then as it was.
void restore_from_tree(::torch::optim::Optimizer& optimizer, const OptimizerTree& tree,
                       const std::string& what);

// LBFGS keeps scratch between steps, with undefined tensors in it that libtorch cannot save. It is
// written anew before it is read in every step. Also looks inside a DistributedOptimizer.
void drop_lbfgs_scratch(::torch::optim::Optimizer& optimizer);

}  // namespace khorus::torch
