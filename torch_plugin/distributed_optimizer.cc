// DistributedOptimizer: the wrapped optimizer plus a GradientReducer.
//
// LR schedulers change the options inside param_groups() of the object they are given, and that
// accessor is not virtual. So the wrapper has groups of its own, whose options are copied into the
// wrapped optimizer before each step; parameters and state are shared.
#include <ATen/ATen.h>
#include <torch/serialize/archive.h>

#include <map>
#include <set>

#include "torch_plugin/gradient_reducer.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

const ::torch::optim::Optimizer& checked(
    const std::unique_ptr<::torch::optim::Optimizer>& optimizer) {
  if (!optimizer) throw_invalid("DistributedOptimizer was given no optimizer");
  return *optimizer;
}

// The name of every parameter. One parameter may have several names (tied weights): the first
// holds.
std::map<const void*, std::string> name_parameters(const NamedParameters& parameters) {
  std::map<const void*, std::string> names;
  std::set<std::string> seen;
  for (const auto& [name, parameter] : parameters) {
    if (name.empty()) throw_invalid("a parameter was given an empty name; names are unique words");
    if (!seen.insert(name).second) {
      throw_invalid("the parameter name \"" + name +
                    "\" was given twice; names must be unique, because they match the gradients "
                    "across ranks");
    }
    names.emplace(parameter.unsafeGetTensorImpl(), name);
  }
  return names;
}

}  // namespace

NamedParameters::NamedParameters(const ::torch::OrderedDict<std::string, Tensor>& parameters) {
  for (const auto& item : parameters) emplace_back(item.key(), item.value());
}

DistributedOptimizer::DistributedOptimizer(std::unique_ptr<::torch::optim::Optimizer> optimizer,
                                           const NamedParameters& parameters,
                                           const DistributedOptimizerOptions& options)
    : Optimizer(std::vector<::torch::optim::OptimizerParamGroup>{},
                checked(optimizer).defaults().clone()),
      wrapped_(std::move(optimizer)),
      reducer_(std::make_shared<GradientReducer>(options)) {
  // No engine, or no such set, is an error now, not in the first backward().
  if (!ProcessSet(options.process_set, options.engine).included()) {
    throw_invalid("DistributedOptimizer was given process set " +
                  std::to_string(options.process_set) + ", and rank " +
                  std::to_string(engine_of(options.engine).rank()) +
                  " is not in it; make it only on the ranks of the set");
  }
  const auto names = name_parameters(parameters);
  for (const auto& group : wrapped_->param_groups()) {
    param_groups_.emplace_back(group);
    for (const Tensor& parameter : group.params()) {
      const auto name = names.find(parameter.unsafeGetTensorImpl());
      if (name == names.end()) {
        throw_invalid("a parameter of shape " + to_string(Shape(parameter.sizes().vec())) +
                      " of the optimizer has no name; give DistributedOptimizer "
                      "model->named_parameters() of the whole model");
      }
      reducer_->add(name->second, parameter);
    }
  }
  reducer_->form_groups();
}

// Who has the reducer for a moment may be using the engine: see
// GradientReducer::leave_when_agreed().
DistributedOptimizer::~DistributedOptimizer() { reducer_->let_go(); }

DistributedOptimizer::SkipSynchronize::SkipSynchronize(bool& should_synchronize)
    : should_synchronize_(should_synchronize), before_(should_synchronize) {
  should_synchronize_ = false;
}

DistributedOptimizer::SkipSynchronize::~SkipSynchronize() { should_synchronize_ = before_; }

void DistributedOptimizer::synchronize() { reducer_->synchronize(); }

Tensor DistributedOptimizer::run_closure(const LossClosure& closure) {
  // Of this call of the closure: a rank whose closure computes no gradient still takes part.
  reducer_->mark_used();
  const Tensor loss = closure();
  if (!should_synchronize_) return loss;
  if (!reducer_->synchronized()) reducer_->synchronize();
  return reducer_->reduce_loss(loss);
}

Tensor DistributedOptimizer::step_with_adasum(const LossClosure& closure) {
  const std::vector<Tensor> parameters = reducer_->parameters();
  std::vector<Tensor> before, changes;
  {
    const at::NoGradGuard no_grad;
    for (const Tensor& parameter : parameters) before.push_back(parameter.detach().clone());
  }
  const Tensor loss = wrapped_->step(closure);
  reducer_->synchronize();  // nothing is under way: the gradients count as used
  if (reducer_->alone()) return loss;
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters.size(); ++i) {
    changes.push_back(parameters[i].detach() - before[i]);
  }
  GroupHandle(reducer_->reduce_steps(changes)).wait();
  for (size_t i = 0; i < parameters.size(); ++i) {
    parameters[i].detach().copy_(before[i] + changes[i]);
  }
  return loss;
}

Tensor DistributedOptimizer::step(LossClosure closure) {
  push_options();
  Tensor loss;
  if (reducer_->by_steps() && should_synchronize_) {
    loss = step_with_adasum(closure);
  } else if (closure) {
    loss = wrapped_->step([this, &closure] { return run_closure(closure); });
  } else {
    if (should_synchronize_ && !reducer_->synchronized()) reducer_->synchronize();
    loss = wrapped_->step();
  }
  reducer_->mark_used();
  return loss;
}

void DistributedOptimizer::set_backward_passes_per_step(int64_t passes) {
  reducer_->set_backward_passes_per_step(passes);
}

void DistributedOptimizer::zero_grad(bool set_to_none) {
  refuse_when_pending("zero_grad()");
  Optimizer::zero_grad(set_to_none);
  reducer_->follow_the_plan_if_there();  // the best moment: few gradients have to move
}

void DistributedOptimizer::refuse_when_pending(const char* what) const {
  if (!reducer_->gradients_pending()) return;
  throw_invalid(std::string(what) +
                " was called between backward() and step(), while gradients are being reduced; "
                "call it before backward(), or after step() or synchronize()");
}

void DistributedOptimizer::add_param_group(const ::torch::optim::OptimizerParamGroup& group) {
  refuse_when_pending("add_param_group()");
  const size_t group_index = param_groups_.size();
  wrapped_->add_param_group(group);  // checks the group, and fills its options from the defaults
  param_groups_.emplace_back(wrapped_->param_groups().back());
  const auto& parameters = param_groups_.back().params();
  for (size_t i = 0; i < parameters.size(); ++i) {
    reducer_->add("group." + std::to_string(group_index) + "." + std::to_string(i), parameters[i]);
  }
}

void DistributedOptimizer::add_parameters(const std::vector<Tensor>& parameters) {
  refuse_when_pending("add_parameters()");
  const size_t first = param_groups_.at(0).params().size();
  Optimizer::add_parameters(parameters);
  wrapped_->add_parameters(parameters);
  for (size_t i = 0; i < parameters.size(); ++i) {
    reducer_->add("group.0." + std::to_string(first + i), parameters[i]);
  }
}

void DistributedOptimizer::save(::torch::serialize::OutputArchive& archive) const {
  push_options();
  wrapped_->save(archive);
}

void DistributedOptimizer::load(::torch::serialize::InputArchive& archive) {
  wrapped_->load(archive);
  pull_options();
}

void DistributedOptimizer::push_options() const {
  auto& theirs = wrapped_->param_groups();
  for (size_t i = 0; i < param_groups_.size(); ++i) {
    theirs[i].set_options(param_groups_[i].options().clone());
  }
}

void DistributedOptimizer::pull_options() {
  const auto& theirs = wrapped_->param_groups();
  for (size_t i = 0; i < param_groups_.size(); ++i) {
    param_groups_[i].set_options(theirs[i].options().clone());
  }
}

}  // namespace khorus::torch
