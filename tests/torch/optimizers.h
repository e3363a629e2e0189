// Every optimizer of torch::optim, with the options that give it state of its own.
#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace khorus::torch::testing {

struct OptimizerKind {
  const char* name;
  const char* family;  // equal for those whose state and options have the same words
  std::function<std::unique_ptr<::torch::optim::Optimizer>(std::vector<at::Tensor>, double rate)>
      make;
};

// `make` of an optimizer with these options (a function of the learning rate).
template <class Optimizer, class MakeOptions>
OptimizerKind kind_of(const char* name, const char* family, MakeOptions options) {
  return {name, family, [options](std::vector<at::Tensor> parameters, double rate) {
            return std::make_unique<Optimizer>(std::move(parameters), options(rate));
          }};
}

inline std::vector<OptimizerKind> optimizer_kinds() {
  namespace optim = ::torch::optim;
  return {
      kind_of<optim::SGD>("SGD", "SGD", [](double r) { return optim::SGDOptions(r); }),
      kind_of<optim::SGD>("Momentum", "SGD",
                          [](double r) { return optim::SGDOptions(r).momentum(0.9); }),
      kind_of<optim::SGD>("Nesterov", "SGD",
                          [](double r) {
                            return optim::SGDOptions(r).momentum(0.8).nesterov(true).weight_decay(
                                0.01);
                          }),
      kind_of<optim::Adam>("Adam", "Adam", [](double r) { return optim::AdamOptions(r); }),
      kind_of<optim::Adam>("AdamAmsgrad", "Adam",
                           [](double r) { return optim::AdamOptions(r).amsgrad(true); }),
      kind_of<optim::AdamW>("AdamW", "Adam", [](double r) { return optim::AdamWOptions(r); }),
      kind_of<optim::AdamW>("AdamWAmsgrad", "Adam",
                            [](double r) { return optim::AdamWOptions(r).amsgrad(true); }),
      kind_of<optim::RMSprop>(
          "RMSprop", "RMSprop",
          [](double r) { return optim::RMSpropOptions(r).momentum(0.5).centered(true); }),
      kind_of<optim::Adagrad>("Adagrad", "Adagrad",
                              [](double r) { return optim::AdagradOptions(r).lr_decay(0.1); }),
      kind_of<optim::LBFGS>("LBFGS", "LBFGS",
                            [](double r) { return optim::LBFGSOptions(r).max_iter(3); }),
      kind_of<optim::LBFGS>("LBFGSWolfe", "LBFGS",
                            [](double r) {
                              return optim::LBFGSOptions(r).max_iter(3).line_search_fn(
                                  "strong_wolfe");
                            }),
  };
}

}  // namespace khorus::torch::testing
