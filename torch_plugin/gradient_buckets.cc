// GradientReducer: the arena and its buckets. See gradient_reducer.h.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <ranges>

#include "khorus/gradient_plan.h"
#include "torch_plugin/device.h"
#include "torch_plugin/gradient_reducer.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

// `device`: the arena's.
bool may_be_in_an_arena(const Tensor& parameter, const at::Device& device) {
  const auto type = parameter.scalar_type();
  return parameter.layout() == at::kStrided && parameter.device() == device &&
         parameter.is_contiguous() && parameter.requires_grad() && parameter.numel() > 0 &&
         (type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16);
}

// Whether it treats each element for itself, and so a bucket as it treats its gradients.
bool is_cast(const CompressorPtr& compression) {
  return compression == Compression::fp16 || compression == Compression::bf16;
}

DataType data_type_of(const Tensor& parameter) { return view_of(parameter, "a parameter").dtype; }

// A tensor over a part of the arena, of the kind of `like`; it keeps the arena.
Tensor part_of(const std::shared_ptr<void>& arena, size_t offset_bytes, at::IntArrayRef shape,
               const Tensor& like) {
  auto* const at = static_cast<std::byte*>(arena.get()) + offset_bytes;
  const auto options = at::TensorOptions().dtype(like.scalar_type()).device(like.device());
  return at::from_blob(
      at, shape, [arena](void*) {}, options, like.device());
}

// Whether a gradient can move there and stay what it is.
bool may_move(const Tensor& gradient, const Tensor& home) {
  return gradient.defined() && gradient.layout() == at::kStrided && !gradient.requires_grad() &&
         gradient.sizes() == home.sizes() && gradient.scalar_type() == home.scalar_type();
}

// Of a place: nobody has the tensor or a view of it.
bool is_free(const Tensor& home) {
  return home.use_count() == 1 && home.storage().use_count() == 1;
}

}  // namespace

// A rank that has the arena off takes part, too: nothing of it fits, so no rank has one.
bool GradientReducer::may_learn() const {
  const CompressorPtr& compression = options_.compression;
  return !learned_ && !alone() && !by_steps() && groups_.empty() && !slots_.empty() &&
         (compression == Compression::none || is_cast(compression));
}

// An arena is on one device: a GPU, if some parameter is there.
at::Device GradientReducer::arena_device() const {
  for (const Slot& slot : slots_) {
    if (is_gpu(slot.parameter.device())) return slot.parameter.device();
  }
  return at::kCPU;
}

std::shared_ptr<void> GradientReducer::allocate_arena(size_t bytes) const {
  Engine& engine = engine_of(options_.engine);
  const at::Device device = arena_device();
  if (!is_gpu(device)) return engine.allocate(bytes, options_.process_set);
  auto memory = engine.allocate_on_device(bytes, options_.process_set);
  return memory == nullptr ? nullptr : kept_for_stream(std::move(memory), device);
}

void GradientReducer::note_arrival(Slot& slot) {
  const at::Device device = slot.parameter.device();
  if (is_gpu(device)) {  // the host is far ahead of it
    slot.arrival = record_now(device, c10::EventFlag::BACKEND_DEFAULT);
    if (!first_arrival_) first_arrival_ = record_now(device, c10::EventFlag::BACKEND_DEFAULT);
    return;
  }
  const auto since_first = std::chrono::steady_clock::now() - first_gradient_;
  slot.arrival_us = std::chrono::duration_cast<std::chrono::microseconds>(since_first).count();
}

// Waits for the GPU, in a step that is learnt from.
void GradientReducer::measure_arrivals() {
  if (!first_arrival_) return;
  first_arrival_->synchronize();
  for (Slot& slot : slots_) {
    if (!slot.arrival) continue;
    slot.arrival->synchronize();
    const double milliseconds = first_arrival_->elapsedTime(*slot.arrival);
    slot.arrival_us = std::max(std::llround(1e3 * milliseconds), 0LL);
    slot.arrival.reset();
  }
}

std::vector<GradientProfile> GradientReducer::profiles() const {
  const at::Device device = arena_device();
  std::vector<GradientProfile> gradients;
  for (const Slot& slot : slots_) {
    GradientProfile& gradient = gradients.emplace_back();
    gradient.fits = options_.gradient_arena && slot.kind == Kind::kDense &&
                    may_be_in_an_arena(slot.parameter, device);
    if (!gradient.fits) continue;
    gradient.dtype = data_type_of(slot.parameter);
    gradient.elements = static_cast<uint64_t>(slot.parameter.numel());
    gradient.arrival_us = slot.arrival_us;
  }
  return gradients;
}

void GradientReducer::start_learning() {
  learning_ =
      learn_gradients(engine_of(options_.engine), slots_.front().name + ".gradient_arrivals",
                      profiles(), options_.process_set);
  for (Slot& slot : slots_) slot.arrival_us = -1;
  is_learning_ = true;
}

// Before the first gradient of a step leaves. Every rank has started in the step before, so this
// waits for no rank that has to do something else first.
void GradientReducer::follow_the_plan() {
  if (!is_learning_) return;
  const std::lock_guard learning_lock(learning_mutex_);
  if (!is_learning_) return;
  throw_if_error(learning_.work->wait());
  const std::lock_guard lock(mutex_);
  const auto plan = learnt_plan(learning_);
  if (plan) {
    leave_first_step();
    plan->buckets.empty() ? arena_.reset() : make_buckets(*plan);
  }
  learned_ = plan.has_value();  // else a rank has joined: this step is learnt from, too
  learning_ = {};
  is_learning_ = false;
}

// Who needs a plan that has failed says so: perhaps this rank has done its last step.
void GradientReducer::follow_the_plan_if_there() {
  {
    const std::lock_guard learning_lock(learning_mutex_);
    if (!is_learning_ || !learning_.work->poll() || !learning_.work->wait().ok()) return;
  }
  follow_the_plan();
}

// backward() makes them about in the reverse order of the parameters. Without memory for them
// gradients stay where they are; making the buckets will say so.
void GradientReducer::lay_out_first_step() {
  constexpr size_t kAlignment = 64;
  const at::Device device = arena_device();
  size_t bytes = 0;
  for (Slot& slot : slots_ | std::views::reverse) {
    if (!may_be_in_an_arena(slot.parameter, device)) continue;
    slot.offset_bytes = bytes;
    bytes += (slot.parameter.nbytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  if (bytes == 0) return;
  arena_ = allocate_arena(bytes);
  if (arena_ == nullptr) return;
  arena_bytes_ = bytes;
  for (Slot& slot : slots_) {
    if (!may_be_in_an_arena(slot.parameter, device)) continue;
    slot.home = part_of(arena_, slot.offset_bytes, slot.parameter.sizes(), slot.parameter);
  }
}

// In a step that is learnt from. False: the gradient stays where it is.
bool GradientReducer::move_in_early(Slot& slot) {
  if (!options_.gradient_arena || !may_learn()) return false;
  if (arena_ == nullptr) lay_out_first_step();
  Tensor& gradient = slot.parameter.mutable_grad();
  if (!slot.home.defined()) return false;
  if (gradient.is_same(slot.home)) return true;  // kept, and accumulated there
  if (!may_move(gradient, slot.home) || !is_free(slot.home)) return false;
  slot.home.copy_(gradient);
  gradient = slot.home;
  return true;
}

// What somebody still has stays where it is, and its memory with it.
void GradientReducer::leave_first_step() {
  const bool all_free = std::ranges::all_of(
      slots_, [](const Slot& slot) { return !slot.home.defined() || is_free(slot.home); });
  for (Slot& slot : slots_) slot.home = Tensor();
  if (all_free) return;
  arena_ = nullptr;
  arena_bytes_ = 0;
}

void GradientReducer::make_buckets(const GradientPlan& plan) {
  if (arena_bytes_ < plan.bytes) {
    arena_ = allocate_arena(plan.bytes);
    arena_bytes_ = arena_ == nullptr ? 0 : plan.bytes;
  }
  if (arena_ == nullptr) {
    throw Error(Status(StatusCode::kUnavailable,
                       "no memory for gradients of " + std::to_string(plan.bytes) +
                           " bytes; the others of this job have theirs: give this rank more"));
  }
  for (const GradientPlan::Bucket& bucket : plan.buckets) {
    Group& group = groups_.emplace_back();
    group.members = bucket.gradients;
    size_t offset = bucket.offset_bytes;
    for (const size_t index : bucket.gradients) {
      Slot& slot = slots_[index];
      slot.group = groups_.size() - 1;
      slot.offset_bytes = offset;
      slot.home = part_of(arena_, offset, slot.parameter.sizes(), slot.parameter);
      offset += slot.parameter.nbytes();
      settle(slot);
    }
    const Tensor& first = slots_[group.members.front()].parameter;
    group.flat =
        part_of(arena_, bucket.offset_bytes, {static_cast<int64_t>(bucket.elements)}, first);
    group.name = slots_[group.members.front()].name + " .. " + slots_[group.members.back()].name +
                 " (" + std::to_string(group.members.size()) + " gradients)";
  }
}

// A gradient that is kept from step to step moves once, and stays the same tensor for who holds it.
void GradientReducer::settle(Slot& slot) {
  const at::NoGradGuard no_grad;
  Tensor& gradient = slot.parameter.mutable_grad();
  if (!may_move(gradient, slot.home)) return;
  slot.home.copy_(gradient);
  gradient.set_data(slot.home);
  slot.home = gradient;
}

bool GradientReducer::in_bucket(const Slot& slot) const {
  return slot.group != kNoGroup && groups_[slot.group].flat.defined();
}

// What others still hold of the slot's place keeps its values, in memory of its own.
void GradientReducer::leave_home(Slot& slot) const {
  if (is_free(slot.home)) return;
  const Tensor old = slot.home;
  slot.home = part_of(arena_, slot.offset_bytes, old.sizes(), old);
  const Tensor copy = old.clone();
  old.storage().set_data_ptr_noswap(copy.storage().set_data_ptr(at::DataPtr()));
}

// Copies the gradient to its place, unless it has been accumulated there.
void GradientReducer::move_in(Slot& slot) {
  Tensor& gradient = slot.parameter.mutable_grad();
  if (gradient.is_same(slot.home)) return;
  if (gradient.sizes() != slot.home.sizes()) {
    throw_invalid("the gradient of \"" + slot.name + "\" had shape " +
                  to_string(Shape(slot.home.sizes().vec())) + " and has shape " +
                  to_string(Shape(gradient.sizes().vec())) +
                  "; give parameters that change a DistributedOptimizer with gradient_arena off");
  }
  leave_home(slot);
  slot.home.copy_(gradient);
  // One with a history, of backward(create_graph), stays what it is.
  slot.copied_back = gradient.requires_grad();
  if (!slot.copied_back) gradient = slot.home;
}

// A parameter that is frozen here gives nothing, and its gradient, if it has one, is left alone.
void GradientReducer::submit_bucket(Group& bucket) {
  const at::NoGradGuard no_grad;
  gather_streams(bucket);
  for (const size_t index : bucket.members) {
    Slot& slot = slots_[index];
    if (slot.parameter.requires_grad()) {
      slot.submitted = true;
      slot.gradient = slot.parameter.grad();
      continue;
    }
    leave_home(slot);
    slot.home.zero_();
  }
  ReduceOptions options = reduce_options(bucket.name);
  bucket.travels = bucket.flat;
  if (options.compression) {
    bucket.travels = options.compression->compress(bucket.flat).tensor;
    options.compression = Compression::none;
  }
  bucket.handle = allreduce_async_(bucket.travels, options);
}

}  // namespace khorus::torch
