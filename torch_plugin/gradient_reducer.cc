// The gradient hooks and what they start. The threads are described in the header.
//
// libtorch runs a PostAccumulateGradHook once per backward() and parameter, after the gradient of
// every use of the parameter has been summed into .grad: a shared parameter is reduced once.
#include "torch_plugin/gradient_reducer.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>
#include <utility>

#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

void check(const DistributedOptimizerOptions& options) {
  const std::string op(to_string(options.op));
  if (options.op != ReduceOp::kAverage && options.op != ReduceOp::kSum &&
      options.op != ReduceOp::kAdasum) {
    throw_invalid("DistributedOptimizer reduces with average, sum or adasum, not with " + op);
  }
  if (options.backward_passes_per_step < 1) {
    throw_invalid("backward_passes_per_step is " +
                  std::to_string(options.backward_passes_per_step) + "; it is at least 1");
  }
  const double factor = options.gradient_predivide_factor;
  if (factor != 1.0 && options.op != ReduceOp::kAverage) {
    throw_invalid("gradient_predivide_factor needs op average; use 1 with op " + op);
  }
  if (!(factor > 0) || !std::isfinite(factor)) {
    throw_invalid("gradient_predivide_factor is " + std::to_string(factor) +
                  "; it must be positive and finite");
  }
  if (options.num_groups < 0) {
    throw_invalid("num_groups is " + std::to_string(options.num_groups) +
                  "; it is the number of groups, or 0 for none");
  }
  if (options.num_groups > 0 && !options.groups.empty()) {
    throw_invalid("num_groups and groups are both given; give one of them");
  }
}

}  // namespace

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
    : options_(options),
      references_in_hook_(references_in_a_hook()),
      passes_per_step_(options.backward_passes_per_step) {
  check(options);
}

GradientReducer::~GradientReducer() { let_go(); }

void GradientReducer::let_go() {
  const std::lock_guard lock(mutex_);
  agreement_ = nullptr;
  for (Slot& slot : slots_) {
    if (slot.hook == nullptr) continue;
    // A hook that somebody chained after ours stays: ours finds no reducer and does nothing.
    auto& current = ::torch::autograd::impl::post_acc_grad_hooks(slot.parameter);
    Hook* const ours = std::exchange(slot.hook, nullptr);
    if (current.get() != ours) continue;
    auto previous = ours->take_previous();
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
  ++unsettled_;
}

bool GradientReducer::knows(const Tensor& parameter) const {
  const std::lock_guard lock(mutex_);
  return slot_of_.contains(parameter.unsafeGetTensorImpl());
}

void GradientReducer::on_gradient(size_t index) {
  follow_the_plan();
  const std::lock_guard lock(mutex_);
  Slot& slot = slots_[index];
  if (slot.passes_left == 0) {
    throw_invalid("the gradient of \"" + slot.name +
                  "\" was computed more than backward_passes_per_step (" +
                  std::to_string(passes_per_step_) +
                  ") times before step(); raise backward_passes_per_step to accumulate locally");
  }
  if (!learned_ && !pending_) {
    first_gradient_ = std::chrono::steady_clock::now();
    first_arrival_.reset();
  }
  pending_ = true;
  synchronized_ = false;
  if (--slot.passes_left > 0 || by_steps()) return;
  const at::Device device = slot.parameter.device();
  if (is_gpu(device)) slot.stream = current_stream(device);
  if (!learned_) note_arrival(slot);
  prepare(slot, references_in_hook_);
  slot.ready = true;
  submit_when_complete(slot);
  if (unsettled_ > 0 && !alone() && every_gradient_is_there()) {
    start_agreeing();
    if (agreement_ != nullptr) leave_when_agreed();
  }
}

void GradientReducer::finish(Slot& slot) {
  // What travelled in another form is written back in wait(), which throws on failure.
  Tensor result;
  if (slot.handle.valid()) result = slot.handle.wait();
  Tensor& gradient = slot.parameter.mutable_grad();
  if (!gradient.is_same(slot.gradient)) {
    throw_invalid("the gradient of \"" + slot.name +
                  "\" was cleared or replaced while it was being reduced; between backward() and "
                  "step() leave gradients alone, or call synchronize() first");
  }
  if (result.defined() && result.layout() != at::kStrided) gradient = result;
  if (slot.copied_back) {
    const at::NoGradGuard no_grad;
    gradient.copy_(slot.home);
  }
}

// Of a bucket: what was cast for the journey is cast back. settle_all() has waited, and tells of a
// failure.
void GradientReducer::finish(Group& group) {
  if (group.travels.is_same(group.flat)) return;
  group.handle.wait();
  const at::NoGradGuard no_grad;
  group.flat.copy_(group.travels);
}

bool GradientReducer::is_to_learn() const {
  const std::lock_guard lock(mutex_);
  return may_learn();
}

// The first error of all works, after all are over or, on a GPU, the current stream is ordered.
Status GradientReducer::settle_all() const {
  Status first;
  const auto keep_first = [&first](Status status) {
    if (first.ok() && !status.ok()) first = std::move(status);
  };
  for (const Slot& slot : slots_) keep_first(slot.handle.settle());
  for (const Group& group : groups_) keep_first(group.handle.settle());
  return first;
}

void GradientReducer::synchronize() {
  Status status;
  try {
    if (!by_steps()) submit_all();
  } catch (const Error& error) {
    status = error.status();
  }
  // Works are waited for without the lock. No hook runs now: backward() is over.
  const Status reduced = settle_all();
  if (status.ok()) status = reduced;
  if (reduced.ok() && is_to_learn()) {
    measure_arrivals();
    const std::lock_guard lock(mutex_);
    start_learning();
  }
  finish_all(&status);
  throw_if_error(status);
  const std::lock_guard lock(mutex_);
  synchronized_ = true;
}

void GradientReducer::finish_all(Status* status) {
  const auto attempt = [status](const auto& call) {
    try {
      call();
    } catch (const Error& error) {
      if (status->ok()) *status = error.status();
    }
  };
  const std::lock_guard lock(mutex_);
  for (Group& group : groups_) {
    if (group.handle.valid()) attempt([&] { finish(group); });
    group.handle = Handle();
    group.travels = Tensor();
  }
  for (Slot& slot : slots_) {
    if (slot.submitted) attempt([&] { finish(slot); });
    slot.ready = slot.submitted = slot.copied_back = false;
    slot.handle = Handle();
    slot.gradient = Tensor();
    slot.passes_left = passes_per_step_;
    if (!slot.kind_is_settled) slot.kind = Kind::kUnknown;
  }
  agreement_ = nullptr;  // one that has failed
  agreed_ = false;
  failure_ = nullptr;
  pending_ = false;
}

std::vector<Handle> GradientReducer::reduce_steps(const std::vector<Tensor>& steps) const {
  std::vector<Handle> handles;
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < steps.size(); ++i) {
    handles.push_back(allreduce_async_(steps[i], reduce_options(slots_[i].name)));
  }
  return handles;
}

std::vector<Tensor> GradientReducer::parameters() const {
  const std::lock_guard lock(mutex_);
  std::vector<Tensor> all;
  for (const Slot& slot : slots_) all.push_back(slot.parameter);
  return all;
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
  return allreduce(loss.detach(), options);
}

}  // namespace khorus::torch
