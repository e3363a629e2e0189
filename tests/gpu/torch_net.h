// A model with its layers on the tests' GPU (torch_device.h), or some of them.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "tests/torch/regression.h"

namespace khorus::torch::testing {

// Net with its layers where they are wanted: torch moves no module to a device of this kind.
struct NetOnDevices : ::torch::nn::Module {
  NetOnDevices(at::Device first, at::Device last) {
    const Net net(::torch::kFloat64);
    for (const auto& item : net->named_parameters()) {
      std::string name = item.key();
      std::replace(name.begin(), name.end(), '.', '_');
      const Tensor there = item.value().detach().to(name.starts_with("third") ? last : first);
      parameters_there.push_back(register_parameter(name, there.clone()));
    }
  }
  Tensor layer(size_t number, const Tensor& x) const {
    const Tensor& weight = parameters_there[2 * number];
    return ::torch::linear(x.to(weight.device()), weight, parameters_there[2 * number + 1]);
  }
  // On examples first to first + 3.
  Tensor loss(int64_t step, int64_t first) const {
    const auto [x, y] = examples(step, first, 4, ::torch::kFloat64);
    const Tensor out = layer(2, ::torch::tanh(layer(1, ::torch::tanh(layer(0, x)))));
    const Tensor difference = out - y.to(out.device());
    return (difference * difference).mean();
  }
  std::vector<Tensor> read() const {
    std::vector<Tensor> values;
    for (const Tensor& parameter : parameters_there) values.push_back(parameter.detach().cpu());
    return values;
  }

  std::vector<Tensor> parameters_there;
};

}  // namespace khorus::torch::testing
