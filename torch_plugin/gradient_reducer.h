// GradientReducer: reduces each gradient as soon as backward() has accumulated it.
//
// A hook on every parameter calls on_gradient() on whatever thread runs backward(); the other
// methods are called by the thread that owns the optimizer. A mutex guards all state; it is never
// held while waiting for a work.
#pragma once

#include <torch/csrc/autograd/function_hook.h>

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "khorus/torch.h"

namespace khorus::torch {

class GradientReducer : public std::enable_shared_from_this<GradientReducer> {
 public:
  // Throws Error(InvalidArgument) for options that do not go together.
  explicit GradientReducer(const DistributedOptimizerOptions& options);
  // Takes the hooks off. Works under way go on; they keep their memory.
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  // Hooks a parameter. A parameter that is there already is ignored. REQUIRES: made by make_shared.
  void add(const std::string& name, const Tensor& parameter);
  bool knows(const Tensor& parameter) const;

  // Submits what no hook has submitted, waits for all, writes back what was copied.
  void synchronize();

  // True when a gradient came since the last synchronize().
  bool gradients_pending() const;
  // True when synchronize() was called and no gradient came since.
  bool synchronized() const;
  // The optimizer has used the gradients: the next step has to reduce again.
  void mark_used();
  void set_backward_passes_per_step(int64_t passes);

  // The mean of the closure's loss over the ranks (the sum for kSum).
  Tensor reduce_loss(const Tensor& loss);

 private:
  class Hook;
  struct Slot {
    std::string name;
    Tensor parameter;
    Hook* hook = nullptr;  // owned by the parameter
    int64_t passes_left = 1;
    bool submitted = false;
    Tensor gradient;  // as submitted
    Handle handle;    // not valid when this rank is alone
  };

  void on_gradient(size_t index);
  void own_gradient_memory(Slot& slot);
  void submit(Slot& slot);  // REQUIRES: mutex_ held
  bool alone() const;
  void submit_missing();  // REQUIRES: mutex_ held
  static void finish(Slot& slot);

  const DistributedOptimizerOptions options_;
  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  std::unordered_map<const void*, size_t> slot_of_;  // by TensorImpl
  int64_t passes_per_step_;
  bool pending_ = false;
  bool synchronized_ = false;
};

}  // namespace khorus::torch
