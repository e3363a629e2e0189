// See collective_gradient.h.
#include "torch_plugin/collective_gradient.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>

namespace khorus::torch {
namespace {

struct BackwardHolder : ::torch::CustomClassHolder {
  explicit BackwardHolder(std::function<Tensors(const Tensors&)> function)
      : backward(std::move(function)) {}
  std::function<Tensors(const Tensors&)> backward;
};

class Collective : public ::torch::autograd::Function<Collective> {
 public:
  static Tensors forward(::torch::autograd::AutogradContext* context, at::TensorList /*inputs*/,
                         const std::function<Tensors()>& run,
                         const c10::intrusive_ptr<BackwardHolder>& holder) {
    context->saved_data["backward"] = c10::IValue::make_capsule(holder);
    return run();
  }

  static Tensors backward(::torch::autograd::AutogradContext* context, const Tensors& gradients) {
    const auto holder = c10::static_intrusive_pointer_cast<BackwardHolder>(
        context->saved_data["backward"].toCapsule());
    Tensors results = holder->backward(gradients);
    results.resize(results.size() + 2);  // none for `run` and `holder`
    return results;
  }
};

}  // namespace

bool wants_gradient(const Tensors& tensors) {
  return at::GradMode::is_enabled() &&
         std::any_of(tensors.begin(), tensors.end(),
                     [](const at::Tensor& t) { return t.defined() && t.requires_grad(); });
}

Tensors differentiable(const Tensors& inputs, const std::function<Tensors()>& forward,
                       std::function<Tensors(const Tensors&)> backward) {
  // A TensorList: that is what apply() looks into for the inputs.
  return Collective::apply(at::TensorList(inputs), forward,
                           c10::make_intrusive<BackwardHolder>(std::move(backward)));
}

std::string gradient_name(const std::string& name) {
  return name.empty() ? name : name + ".gradient";
}

}  // namespace khorus::torch
