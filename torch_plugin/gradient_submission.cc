// GradientReducer: how gradients leave, dense or sparse, alone or in groups. See
// gradient_reducer.h.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

#include "torch_plugin/collectives.h"
#include "torch_plugin/gradient_reducer.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

bool is_sparse(const Tensor& gradient) { return gradient.layout() == at::kSparse; }

// No entries at all: what a rank gives that did not use the parameter.
Tensor empty_sparse_like(const Tensor& parameter) {
  std::vector<int64_t> values = parameter.sizes().vec();
  values.at(0) = 0;
  return at::sparse_coo_tensor(at::empty({1, 0}, parameter.options().dtype(at::kLong)),
                               at::empty(values, parameter.options()), parameter.sizes());
}

// Autograd hands over a gradient without a copy when nobody else has the *tensor*, but its memory
// may still be shared: views of one upstream gradient reach two parameters. Reducing in place would
// then change what the rest of backward() reads. `normal`: references when nobody else has it.
void own_memory(Tensor& gradient, size_t normal) {
  if (gradient.layout() != at::kStrided || gradient.storage().use_count() <= normal) return;
  gradient = gradient.clone();
}

// Counts the references that a hook sees.
class CountReferences : public ::torch::autograd::PostAccumulateGradHook {
 public:
  explicit CountReferences(size_t& count) : count_(count) {}
  void operator()(const Tensor& parameter) override {
    count_ = parameter.grad().storage().use_count();
  }

 private:
  size_t& count_;
};

}  // namespace

// .grad has one; whether the argument of the accumulation still lives, and has another, depends on
// the version of libtorch.
size_t GradientReducer::references_in_a_hook() {
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode grad(true);
  const Tensor parameter = at::ones({1}).requires_grad_(true);
  size_t count = 0;
  ::torch::autograd::impl::set_post_acc_grad_hooks(parameter,
                                                   std::make_unique<CountReferences>(count));
  (parameter * 2).sum().backward();
  return count;
}

// ---- groups

void GradientReducer::put_in_group(size_t index, size_t group) {
  Slot& slot = slots_[index];
  if (slot.group == group) return;  // tied parameters are one
  if (slot.group != kNoGroup) {
    throw_invalid("parameter \"" + slot.name + "\" is in two groups; put it in one");
  }
  slot.group = group;
  groups_[group].members.push_back(index);
}

void GradientReducer::form_groups() {
  const std::lock_guard lock(mutex_);
  for (const std::vector<Tensor>& group : options_.groups) {
    groups_.emplace_back();
    for (const Tensor& parameter : group) {
      const auto slot = slot_of_.find(parameter.unsafeGetTensorImpl());
      if (slot == slot_of_.end()) {
        throw_invalid("a parameter of shape " + to_string(Shape(parameter.sizes().vec())) +
                      " in `groups` does not belong to the optimizer");
      }
      put_in_group(slot->second, groups_.size() - 1);
    }
  }
  if (options_.num_groups == 0) return;
  // Neighbours together, sizes as equal as they can be.
  const auto count = std::min(static_cast<size_t>(options_.num_groups), slots_.size());
  groups_.resize(count);
  for (size_t i = 0; i < slots_.size(); ++i) put_in_group(i, i * count / slots_.size());
}

// ---- kinds

// How many ranks take part, and what this rank has of each: (dense, sparse), 1 or 0. Summed,
// because a rank that has joined gives zeros to sums.
Tensor GradientReducer::kinds_seen(const std::vector<size_t>& unknown) const {
  const Tensor seen = at::zeros({1 + 2 * static_cast<int64_t>(unknown.size())}, at::kInt);
  auto* counts = seen.data_ptr<int32_t>();
  *counts++ = 1;
  for (const size_t index : unknown) {
    const Tensor& gradient = slots_[index].parameter.grad();
    if (gradient.defined()) counts[is_sparse(gradient) ? 1 : 0] = 1;
    counts += 2;
  }
  return seen;
}

void GradientReducer::settle_kind(Slot& slot, Kind kind) {
  slot.kind = kind;
  slot.kind_is_settled = true;
  --unsettled_;
}

void GradientReducer::learn_kinds(const std::vector<size_t>& unknown, const Tensor& seen) {
  const auto* counts = seen.const_data_ptr<int32_t>();
  const bool all_took_part = *counts++ == ProcessSet(options_.process_set, options_.engine).size();
  for (const size_t index : unknown) {
    Slot& slot = slots_[index];
    slot.kind = counts[0] == 0 && counts[1] != 0 ? Kind::kSparse : Kind::kDense;
    if (all_took_part) settle_kind(slot, slot.kind);
    counts += 2;
  }
}

// As soon as this rank has nothing more to tell, so that nobody waits for it who steps its
// optimizers in another order.
void GradientReducer::start_agreeing() {
  if (unsettled_ == 0 || alone() || agreement_ != nullptr || agreed_) return;
  std::vector<size_t> unknown;
  for (size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (slot.kind_is_settled) continue;
    if (options_.sparse_as_dense) {  // none is sparse on its way
      settle_kind(slot, Kind::kDense);
    } else {
      unknown.push_back(i);
    }
  }
  if (unknown.empty()) return;
  ReduceOptions options;
  options.name = slots_.front().name + ".gradient_kinds";
  options.op = ReduceOp::kSum;
  options.process_set = options_.process_set;
  options.engine = options_.engine;
  const Tensor seen = kinds_seen(unknown);
  agreement_ = std::make_shared<Agreement>(
      Agreement{std::move(unknown), seen, allreduce_async_(seen, options)});
}

// Sparse gradients that wait leave when the ranks have agreed, whatever this rank is doing then: on
// a thread of libtorch's, because the one that finishes a work must not be kept.
void GradientReducer::leave_when_agreed() {
  const bool some_wait =
      std::ranges::any_of(slots_, [](const Slot& slot) { return slot.ready && !slot.submitted; });
  if (!some_wait) return;
  const auto leave = [weak = weak_from_this(), agreement = agreement_] {
    if (!agreement->handle.settle().ok()) return;  // synchronize()'s to tell
    const auto reducer = weak.lock();
    if (reducer == nullptr) return;
    const std::lock_guard lock(reducer->mutex_);
    if (reducer->agreement_ == agreement) reducer->leave_as_agreed();
  };
  agreement_->handle.works().front()->on_done([leave](const Status& status) {
    if (status.ok()) at::launch(leave);
  });
}

void GradientReducer::leave_as_agreed() {
  try {
    follow_agreement();
  } catch (...) {
    failure_ = std::current_exception();
  }
}

void GradientReducer::follow_agreement() {
  learn_kinds(agreement_->about, agreement_->seen);
  agreement_ = nullptr;
  agreed_ = true;
  for (Slot& slot : slots_) {
    if (!slot.ready || slot.submitted) continue;
    const c10::OptionalStreamGuard where_it_was_made(slot.stream);
    if (is_sparse(slot.parameter.grad())) prepare(slot, 1);
    submit_when_complete(slot);
  }
}

void GradientReducer::agree_on_kinds() {
  std::shared_ptr<Agreement> agreement;
  {
    const std::lock_guard lock(mutex_);
    start_agreeing();
    agreement = agreement_;
  }
  if (agreement == nullptr) return;
  throw_if_error(agreement->handle.settle());
  const std::lock_guard lock(mutex_);
  if (agreement_ != nullptr) follow_agreement();
}

bool GradientReducer::every_gradient_is_there() const {
  return std::ranges::all_of(
      slots_, [](const Slot& slot) { return slot.ready || !slot.parameter.requires_grad(); });
}

// Gives the gradient the form in which it goes.
void GradientReducer::prepare(Slot& slot, size_t normal_references) {
  const at::NoGradGuard no_grad;
  Tensor& gradient = slot.parameter.mutable_grad();
  if (!gradient.defined()) {
    gradient = slot.kind == Kind::kSparse && !alone() ? empty_sparse_like(slot.parameter)
                                                      : at::zeros_like(slot.parameter);
  }
  if (is_sparse(gradient)) {
    const bool must_be_dense = slot.kind == Kind::kDense && !alone();
    if (options_.sparse_as_dense || must_be_dense) gradient = gradient.to_dense();
  } else if (slot.kind == Kind::kSparse) {
    gradient = gradient.to_sparse(1);
  } else if (!alone() && !in_bucket(slot)) {
    if (!move_in_early(slot)) own_memory(gradient, normal_references);
  }
  if (in_bucket(slot)) move_in(slot);
}

// ---- submission

// In a world of one rank the gradient is its own mean and sum: the three lines cost nothing there.
bool GradientReducer::alone() const { return engine_of(options_.engine).size() == 1; }

ReduceOptions GradientReducer::reduce_options(const std::string& name) const {
  ReduceOptions options;
  options.name = name;
  options.op = options_.op;
  options.compression = options_.compression;
  options.prescale_factor = 1.0 / options_.gradient_predivide_factor;
  options.postscale_factor = options_.gradient_predivide_factor;
  options.process_set = options_.process_set;
  options.engine = options_.engine;
  return options;
}

// False for a sparse gradient that waits until the ranks have agreed, and for none at all.
bool GradientReducer::can_go(const Slot& slot) const {
  if (!slot.parameter.requires_grad()) return true;  // frozen: nobody waits for it
  if (!slot.ready) return false;
  return slot.kind != Kind::kUnknown || alone() || !is_sparse(slot.parameter.grad());
}

void GradientReducer::submit_when_complete(Slot& slot) {
  if (!can_go(slot)) return;
  // Sparse gradients go alone, and no group waits for them.
  if (slot.group == kNoGroup || slot.kind == Kind::kSparse) return submit(slot);
  Group& group = groups_[slot.group];
  const bool complete =
      std::all_of(group.members.begin(), group.members.end(), [this](size_t index) {
        return slots_[index].kind == Kind::kSparse || can_go(slots_[index]);
      });
  if (!complete) return;
  group.flat.defined() ? submit_bucket(group) : submit_group(group);
}

void GradientReducer::submit(Slot& slot) {
  slot.submitted = true;
  slot.gradient = slot.parameter.grad();
  if (alone()) return;
  const at::NoGradGuard no_grad;
  const ReduceOptions options = reduce_options(slot.name);
  slot.handle = is_sparse(slot.gradient) ? sparse_allreduce_async(slot.gradient, options)
                                         : allreduce_async_(slot.gradient, options);
}

// What is submitted together comes after what is in the current stream: so that has to wait for
// gradients that backward() has made in other streams.
void GradientReducer::gather_streams(const Group& group) const {
  for (const size_t index : group.members) {
    const Slot& slot = slots_[index];
    if (!slot.stream || *slot.stream == current_stream(slot.stream->device())) continue;
    c10::Event there(slot.stream->device_type());
    there.record(*slot.stream);
    there.block(current_stream(slot.stream->device()));
  }
}

void GradientReducer::submit_group(Group& group) {
  gather_streams(group);
  NamedTensors gradients;
  std::vector<Slot*> slots;
  for (const size_t index : group.members) {
    Slot& slot = slots_[index];
    if (!slot.parameter.requires_grad() || slot.kind == Kind::kSparse) continue;
    slot.submitted = true;
    slot.gradient = slot.parameter.grad();
    gradients.emplace_back(slot.name, slot.gradient);
    slots.push_back(&slot);
  }
  if (alone() || slots.empty()) return;
  const at::NoGradGuard no_grad;
  std::vector<Handle> handles = start_group_allreduce(gradients, reduce_options(""));
  for (size_t i = 0; i < slots.size(); ++i) slots[i]->handle = std::move(handles[i]);
}

// Every rank submits every parameter each step, whatever it used, so that no rank waits in vain.
void GradientReducer::submit_missing() {
  for (Slot& slot : slots_) {
    if (slot.submitted || !slot.parameter.requires_grad()) continue;
    prepare(slot, 1);  // only .grad has it now
    slot.ready = true;
  }
  for (Slot& slot : slots_) {
    if (!slot.submitted && slot.parameter.requires_grad()) submit_when_complete(slot);
  }
}

void GradientReducer::submit_all() {
  follow_the_plan();
  agree_on_kinds();
  const std::lock_guard lock(mutex_);
  if (failure_ != nullptr) std::rethrow_exception(failure_);
  submit_missing();
}

}  // namespace khorus::torch
