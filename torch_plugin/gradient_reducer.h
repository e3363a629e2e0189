// GradientReducer: reduces each gradient as soon as backward() has accumulated it.
//
// A hook on every parameter calls on_gradient() on whatever thread runs backward(); the other
// public methods are called by the thread that owns the optimizer. A mutex guards all state; it is
// never held while waiting for a work.
//
// Groups: the gradients of a group are submitted together, when the last of them is there.
//
// Sparse gradients go another way than dense ones, so all ranks must know which way a parameter
// goes, also a rank that does not use it. They agree once, in the first step after the parameter
// was added: sparse if some rank has a sparse gradient and none a dense one. Each says what it has
// when its last gradient has come, or in synchronize(), which waits for what the others say. Until
// then a dense gradient goes at once, which makes the parameter dense for all, and a sparse one
// waits. Later gradients of the other kind are converted. While some rank has joined, what they
// agree on holds for one step: that rank has not heard it.
//
// The arena (gradient_buckets.cc): at the end of the same first synchronize() the ranks tell each
// other in which order gradients came and how fast they were reduced (khorus/gradient_plan.h), and
// in the next step they all follow the plan that this makes. A bucket is a group
// that lies in one piece and is reduced as one tensor. A gradient that backward() has made
// elsewhere moves to its place in the hook, and .grad with it. Until the plan is there gradients
// lie in the arena in the order in which backward() is likely to make them, and are reduced one by
// one: they never need memory beside it.
//
// On a GPU nothing here waits on the host but the first step, which learns: hooks put their copies
// into the stream of backward() and submit with an event for it, and synchronize() orders the
// stream after the works. Then the arena is there from the second operation of the process set on.
#pragma once

#include <torch/csrc/autograd/function_hook.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "khorus/gradient_plan.h"
#include "khorus/torch.h"
#include "torch_plugin/device.h"

namespace khorus::torch {

class GradientReducer : public std::enable_shared_from_this<GradientReducer> {
 public:
  // Throws Error(InvalidArgument) for options that do not go together.
  explicit GradientReducer(const DistributedOptimizerOptions& options);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  // Hooks a parameter. A parameter that is there already is ignored. REQUIRES: made by make_shared.
  void add(const std::string& name, const Tensor& parameter);
  bool knows(const Tensor& parameter) const;
  // Takes the hooks off; from then on nothing is submitted. Works under way go on; they keep their
  // memory.
  void let_go();
  // Groups what has been added, as the options say. Called once. Throws Error(InvalidArgument).
  void form_groups();

  // If the ranks have learnt their buckets, moves what gradients there are to the arena. Between
  // two steps, or when the first gradient of a step has come.
  void follow_the_plan();
  // The same, if that needs no waiting for other ranks.
  void follow_the_plan_if_there();

  // Submits what no hook has submitted, waits for all, writes back what was copied.
  void synchronize();

  // True when a gradient came since the last synchronize().
  bool gradients_pending() const;
  // In a world of one rank nothing is sent.
  bool alone() const;
  // True when synchronize() was called and no gradient came since.
  bool synchronized() const;
  // The optimizer has used the gradients: the next step has to reduce again.
  void mark_used();
  void set_backward_passes_per_step(int64_t passes);

  // With kAdasum it is not gradients that are reduced but what each rank's own step changed.
  bool by_steps() const noexcept { return options_.op == ReduceOp::kAdasum; }
  std::vector<Tensor> parameters() const;
  // In place, one per parameter in the order of parameters().
  std::vector<Handle> reduce_steps(const std::vector<Tensor>& steps) const;

  // The mean of the closure's loss over the ranks (the sum for kSum).
  Tensor reduce_loss(const Tensor& loss);

 private:
  class Hook;
  enum class Kind { kUnknown, kDense, kSparse };
  static constexpr size_t kNoGroup = ~size_t{0};
  struct Slot {
    std::string name;
    Tensor parameter;
    Hook* hook = nullptr;  // owned by the parameter
    int64_t passes_left = 1;
    Kind kind = Kind::kUnknown;
    bool kind_is_settled = false;  // all ranks know it
    size_t group = kNoGroup;
    bool ready = false;  // the gradient of the last pass is there
    bool submitted = false;
    Tensor gradient;          // as submitted
    Handle handle;            // not valid when this rank is alone, nor in a bucket
    int64_t arrival_us = -1;  // of the first step, since its first gradient; -1: none came
    std::optional<c10::Event> arrival;  // the same on a GPU
    std::optional<c10::Stream> stream;  // of a GPU: where the gradient was computed
    size_t offset_bytes = 0;            // in the arena
    Tensor home;                        // its place there; not defined: it has none
    bool copied_back = false;           // it only travels at its place
  };
  struct Group {
    std::vector<size_t> members;  // of slots_
    Tensor flat;                  // of a bucket: all of it
    Tensor travels;               // of a bucket that is under way: flat, or what it was cast to
    std::string name;             // of a bucket
    Handle handle;                // of a bucket that is under way
  };

  // What the ranks tell each other of kinds.
  struct Agreement {
    std::vector<size_t> about;  // of slots_
    Tensor seen;
    Handle handle;
  };

  void on_gradient(size_t index);
  ReduceOptions reduce_options(const std::string& name) const;

  // All of these REQUIRE: mutex_ held.
  void prepare(Slot& slot, size_t normal_references);
  bool can_go(const Slot& slot) const;
  void submit_when_complete(Slot& slot);
  void submit(Slot& slot);
  void submit_group(Group& group);
  void gather_streams(const Group& group) const;
  void submit_missing();
  bool every_gradient_is_there() const;
  void start_agreeing();
  void leave_when_agreed();
  void leave_as_agreed();
  void follow_agreement();
  void settle_kind(Slot& slot, Kind kind);
  Tensor kinds_seen(const std::vector<size_t>& unknown) const;
  void learn_kinds(const std::vector<size_t>& unknown, const Tensor& seen);
  void put_in_group(size_t index, size_t group);
  static void finish(Slot& slot);
  static void finish(Group& group);
  // Of the arena.
  bool may_learn() const;
  at::Device arena_device() const;
  std::shared_ptr<void> allocate_arena(size_t bytes) const;
  void note_arrival(Slot& slot);
  void measure_arrivals();
  std::vector<GradientProfile> profiles() const;
  void start_learning();
  void lay_out_first_step();
  bool move_in_early(Slot& slot);
  void leave_first_step();
  void make_buckets(const GradientPlan& plan);
  void settle(Slot& slot);
  bool in_bucket(const Slot& slot) const;
  void move_in(Slot& slot);
  void leave_home(Slot& slot) const;
  void submit_bucket(Group& bucket);

  // How many references the memory of a fresh gradient has while a hook runs.
  static size_t references_in_a_hook();

  // Takes the mutex itself.
  void agree_on_kinds();
  void submit_all();
  bool is_to_learn() const;
  Status settle_all() const;
  void finish_all(Status* status);

  const DistributedOptimizerOptions options_;
  const size_t references_in_hook_;
  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<Group> groups_;
  size_t unsettled_ = 0;                  // slots whose kind is not settled
  std::shared_ptr<Agreement> agreement_;  // under way, or null
  bool agreed_ = false;                   // in this step
  std::exception_ptr failure_;            // of what left when the ranks had agreed
  std::shared_ptr<void> arena_;
  size_t arena_bytes_ = 0;
  bool learned_ = false;
  std::mutex learning_mutex_;  // taken before mutex_, also while waiting; guards learning_
  GradientLearning learning_;
  std::atomic<bool> is_learning_ = false;
  std::chrono::steady_clock::time_point first_gradient_;  // of the step, until learned
  std::optional<c10::Event> first_arrival_;               // the same on a GPU
  std::unordered_map<const void*, size_t> slot_of_;       // by TensorImpl
  int64_t passes_per_step_;
  bool pending_ = false;
  bool synchronized_ = false;
};

}  // namespace khorus::torch
