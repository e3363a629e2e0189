// The gradient hooks and what they start. The threads are described in the header.
//
// libtorch runs a PostAccumulateGradHook once per backward() and parameter, after the gradient of
// every use of the parameter has been summed into .grad: a shared parameter is reduced once.
#include "torch_plugin/gradient_reducer.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

#include "torch_plugin/tensor_view.h"

namespace khorus::torch {

// Lives in the parameter, so it must not keep the reducer alive. A hook that somebody set before
// ours is called first.
class GradientReducer::Hook : public ::torch::autograd::PostAccumulateGradHook {
 public:
  Hook(std::weak_ptr<GradientReducer> reducer, size_t index,
       std::unique_ptr<PostAccumulateGradHook> previous)
      : reducer_(std::move(reducer)), index_(index), previous_(std::move(previous)) {}

  void operator()(const Tensor& parameter) override {
    if (previous_) (*previous_)(parameter);
    if (const auto reducer = reducer_.lock()) reducer->on_gradient(index_);
  }
  std::unique_ptr<PostAccumulateGradHook> take_previous() { return std::move(previous_); }

 private:
  std::weak_ptr<GradientReducer> reducer_;
  size_t index_;
  std::unique_ptr<PostAccumulateGradHook> previous_;
};

GradientReducer::GradientReducer(const DistributedOptimizerOptions& options)
    : options_(options), passes_per_step_(options.backward_passes_per_step) {
  if (options.op != ReduceOp::kAverage && options.op != ReduceOp::kSum) {
    throw_invalid("DistributedOptimizer reduces with average or sum, not with " +
                  std::string(to_string(options.op)));
  }
  if (options.backward_passes_per_step < 1) {
    throw_invalid("backward_passes_per_step is " +
                  std::to_string(options.backward_passes_per_step) + "; it is at least 1");
  }
  if (options.gradient_predivide_factor != 1.0 && options.op != ReduceOp::kAverage) {
    throw_invalid("gradient_predivide_factor needs op average; use 1 with op " +
                  std::string(to_string(options.op)));
  }
  if (!(options.gradient_predivide_factor > 0)) {
    throw_invalid("gradient_predivide_factor is " +
                  std::to_string(options.gradient_predivide_factor) + "; it must be positive");
  }
}

GradientReducer::~GradientReducer() {
  for (Slot& slot : slots_) {
    // A hook that somebody chained after ours stays: ours finds no reducer and does nothing.
    auto& current = ::torch::autograd::impl::post_acc_grad_hooks(slot.parameter);
    if (current.get() != slot.hook) continue;
    auto previous = slot.hook->take_previous();
    current = std::move(previous);
  }
}

void GradientReducer::add(const std::string& name, const Tensor& parameter) {
  const std::lock_guard lock(mutex_);
  const size_t index = slots_.size();
  if (!slot_of_.emplace(parameter.unsafeGetTensorImpl(), index).second) return;
  if (!parameter.is_leaf()) {
    throw_invalid("parameter \"" + name + "\" is not a leaf: it is the result of an operation");
  }
  // A tensor that never required a gradient has no place for hooks yet.
  ::torch::autograd::impl::materialize_autograd_meta(parameter);
  auto hook = std::make_unique<Hook>(
      weak_from_this(), index, std::move(::torch::autograd::impl::post_acc_grad_hooks(parameter)));
  Slot slot;
  slot.name = options_.name.empty() ? name : options_.name + "." + name;
  slot.parameter = parameter;
  slot.hook = hook.get();
  slot.passes_left = passes_per_step_;
  ::torch::autograd::impl::set_post_acc_grad_hooks(parameter, std::move(hook));
  slots_.push_back(std::move(slot));
}

bool GradientReducer::knows(const Tensor& parameter) const {
  const std::lock_guard lock(mutex_);
  return slot_of_.contains(parameter.unsafeGetTensorImpl());
}

void GradientReducer::on_gradient(size_t index) {
  const std::lock_guard lock(mutex_);
  Slot& slot = slots_[index];
  if (slot.passes_left == 0) {
    throw_invalid("the gradient of \"" + slot.name +
                  "\" was computed more than backward_passes_per_step (" +
                  std::to_string(passes_per_step_) +
                  ") times before step(); raise backward_passes_per_step to accumulate locally");
  }
  pending_ = true;
  synchronized_ = false;
  if (--slot.passes_left > 0) return;
  if (!alone()) own_gradient_memory(slot);
  submit(slot);
}

// Autograd hands over a gradient without a copy when nobody else has the *tensor*, but its memory
// may still be shared: views of one upstream gradient reach two parameters. Reducing in place would
// then change what the rest of backward() reads. Two references are normal here: .grad and the
// argument that the engine still holds.
void GradientReducer::own_gradient_memory(Slot& slot) {
  Tensor& gradient = slot.parameter.mutable_grad();
  if (gradient.layout() != at::kStrided || gradient.storage().use_count() <= 2) return;
  const at::NoGradGuard no_grad;
  gradient = gradient.clone();
}

// In a world of one rank the gradient is its own mean and sum: the three lines cost nothing there.
bool GradientReducer::alone() const { return engine_of(options_.engine).size() == 1; }

void GradientReducer::submit(Slot& slot) {
  slot.submitted = true;
  slot.gradient = slot.parameter.grad();
  if (alone()) return;
  const at::NoGradGuard no_grad;
  ReduceOptions options;
  options.name = slot.name;
  options.op = options_.op;
  options.prescale_factor = 1.0 / options_.gradient_predivide_factor;
  options.postscale_factor = options_.gradient_predivide_factor;
  options.process_set = options_.process_set;
  options.engine = options_.engine;
  slot.handle = allreduce_async_(slot.gradient, options);
}

// Every rank submits every parameter each step, whatever it used, so that no rank waits in vain.
void GradientReducer::submit_missing() {
  const at::NoGradGuard no_grad;
  for (Slot& slot : slots_) {
    if (slot.submitted || !slot.parameter.requires_grad()) continue;
    Tensor& gradient = slot.parameter.mutable_grad();
    if (!gradient.defined()) gradient = at::zeros_like(slot.parameter);
    submit(slot);
  }
}

void GradientReducer::finish(Slot& slot) {
  // The copy back of a non-contiguous gradient happens in wait(), which throws on failure.
  if (slot.handle.valid()) slot.handle.wait();
  if (!slot.parameter.grad().is_same(slot.gradient)) {
    throw_invalid("the gradient of \"" + slot.name +
                  "\" was cleared or replaced while it was being reduced; between backward() and "
                  "step() leave gradients alone, or call synchronize() first");
  }
}

void GradientReducer::synchronize() {
  {
    const std::lock_guard lock(mutex_);
    submit_missing();
  }
  // Works are waited for without the lock. No hook runs now: backward() is over.
  std::vector<WorkPtr> works;
  for (const Slot& slot : slots_) {
    if (slot.handle.valid()) works.push_back(slot.handle.work());
  }
  Status status = wait_all(works);
  const std::lock_guard lock(mutex_);
  for (Slot& slot : slots_) {
    try {
      if (slot.submitted) finish(slot);
    } catch (const Error& error) {
      if (status.ok()) status = error.status();
    }
    slot.submitted = false;
    slot.handle = Handle();
    slot.gradient = Tensor();
    slot.passes_left = passes_per_step_;
  }
  pending_ = false;
  throw_if_error(status);
  synchronized_ = true;
}

bool GradientReducer::gradients_pending() const {
  const std::lock_guard lock(mutex_);
  return pending_;
}

bool GradientReducer::synchronized() const {
  const std::lock_guard lock(mutex_);
  return synchronized_;
}

void GradientReducer::mark_used() {
  const std::lock_guard lock(mutex_);
  synchronized_ = false;
}

void GradientReducer::set_backward_passes_per_step(int64_t passes) {
  if (passes < 1) {
    throw_invalid("backward_passes_per_step is " + std::to_string(passes) + "; it is at least 1");
  }
  const std::lock_guard lock(mutex_);
  if (pending_) {
    throw_invalid(
        "set_backward_passes_per_step() was called between backward() and step(); call it between "
        "two steps");
  }
  passes_per_step_ = passes;
  for (Slot& slot : slots_) slot.passes_left = passes;
}

Tensor GradientReducer::reduce_loss(const Tensor& loss) {
  ReduceOptions options;
  options.name = (options_.name.empty() ? "DistributedOptimizer" : options_.name) + ".loss";
  options.op = options_.op;
  options.process_set = options_.process_set;
  options.engine = options_.engine;
  return allreduce(loss, options);
}

}  // namespace khorus::torch
