// A small regression problem whose data is a pure function of the example's number, and what the
// equivalence tests compare: N ranks with batch B against one with batch N*B.
//
// Header only: used by the in-process tests and by the program that runs under khorusrun.
#pragma once

#include <torch/torch.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "khorus/torch.h"

namespace khorus::torch::testing {

struct NetImpl : ::torch::nn::Module {
  explicit NetImpl(::torch::Dtype dtype)
      : first(register_module("first", ::torch::nn::Linear(6, 16))),
        second(register_module("second", ::torch::nn::Linear(16, 16))),
        third(register_module("third", ::torch::nn::Linear(16, 3))) {
    // Not the default initialisation: its generator is shared by all threads.
    const ::torch::NoGradGuard no_grad;
    double phase = 0;
    for (Tensor& parameter : parameters()) {
      const Tensor index = ::torch::arange(parameter.numel(), ::torch::kFloat64);
      phase += 1;
      parameter.copy_(::torch::sin(index * 1.7 + phase).view(parameter.sizes()) * 0.4);
    }
    to(dtype);
  }
  Tensor forward(Tensor x) {
    x = ::torch::tanh(first(x));
    x = ::torch::tanh(second(x));
    return third(x);
  }
  ::torch::nn::Linear first, second, third;
};
// As TORCH_MODULE, which needs `torch` to mean libtorch.
class Net : public ::torch::nn::ModuleHolder<NetImpl> {
 public:
  using ::torch::nn::ModuleHolder<NetImpl>::ModuleHolder;
  using Impl = NetImpl;
};

// Examples first .. first + count - 1 of a step: inputs [count, 6], targets [count, 3].
inline std::pair<Tensor, Tensor> examples(int64_t step, int64_t first, int64_t count,
                                          ::torch::Dtype dtype) {
  const Tensor number = ::torch::arange(first, first + count, ::torch::kFloat64).unsqueeze(1);
  const Tensor column = ::torch::arange(6, ::torch::kFloat64).unsqueeze(0);
  const Tensor x = ::torch::sin(number * 0.9 + column * 2.3 + static_cast<double>(step) * 0.37);
  const Tensor y = ::torch::cos(x.narrow(1, 0, 3) * 3.0) * x.narrow(1, 3, 3);
  return {x.to(dtype), y.to(dtype)};
}

inline Tensor loss_on(Net& net, int64_t step, int64_t first, int64_t count) {
  const auto [x, y] = examples(step, first, count, net->third->weight.scalar_type());
  return ::torch::mse_loss(net->forward(x), y);
}

using MakeOptimizer =
    std::function<std::unique_ptr<::torch::optim::Optimizer>(std::vector<Tensor> parameters)>;

inline std::unique_ptr<::torch::optim::Optimizer> make_sgd(std::vector<Tensor> parameters) {
  return std::make_unique<::torch::optim::SGD>(
      std::move(parameters), ::torch::optim::SGDOptions(0.05).momentum(0.9).nesterov(true));
}
inline std::unique_ptr<::torch::optim::Optimizer> make_adamw(std::vector<Tensor> parameters) {
  return std::make_unique<::torch::optim::AdamW>(
      std::move(parameters), ::torch::optim::AdamWOptions(1e-2).weight_decay(0.1));
}

inline std::unique_ptr<::torch::optim::Optimizer> plain_sgd(std::vector<Tensor> parameters,
                                                            double rate = 1.0) {
  return std::make_unique<::torch::optim::SGD>(std::move(parameters),
                                               ::torch::optim::SGDOptions(rate));
}

// A parameter of its own, outside any module.
inline Tensor leaf(const std::vector<double>& values) {
  return ::torch::tensor(values, ::torch::kFloat64).requires_grad_(true);
}

inline DistributedOptimizerOptions on(Engine& engine) {
  DistributedOptimizerOptions options;
  options.engine = &engine;
  return options;
}

// FNV-1a over the bits of all parameters.
inline int64_t hash_of(const std::vector<Tensor>& parameters) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const Tensor& parameter : parameters) {
    const Tensor plain = parameter.detach().contiguous();
    const auto* bytes = static_cast<const uint8_t*>(plain.data_ptr());
    for (size_t i = 0; i < plain.nbytes(); ++i) hash = (hash ^ bytes[i]) * 0x100000001b3;
  }
  return static_cast<int64_t>(hash);
}

// Throws unless the parameters are bitwise equal on all ranks.
inline void require_identical(Engine& engine, const std::vector<Tensor>& parameters,
                              const std::string& when,
                              ProcessSetId process_set = kGlobalProcessSet) {
  CollectiveOptions options;
  options.name = "hash";
  options.process_set = process_set;
  options.engine = &engine;
  const Tensor mine = ::torch::full({1}, hash_of(parameters), ::torch::kInt64);
  const Tensor all = allgather(mine, options);
  if (!all.eq(mine).all().item<bool>()) {
    throw std::runtime_error("the ranks hold different parameters " + when);
  }
}

struct Equivalence {
  MakeOptimizer make_optimizer = make_sgd;
  ::torch::Dtype dtype = ::torch::kFloat64;
  int64_t passes = 1;
  int64_t steps = 50;
  int64_t batch = 4;
  // Steps that every rank makes alone, on the same examples, before the optimizer is wrapped.
  int64_t steps_before = 0;
  bool closure = false;  // step(closure) instead of backward() and step()
  std::function<void(DistributedOptimizerOptions&)> change = nullptr;
  // The groups of the parameters, if given.
  std::function<std::vector<std::vector<Tensor>>(const std::vector<Tensor>&)> group = nullptr;
};

// One step with or without a closure. `zero_grad` is not virtual, so it is given.
inline void step_once(const Equivalence& config, ::torch::optim::Optimizer& optimizer,
                      const std::function<void()>& zero_grad,
                      const std::function<Tensor(int64_t pass)>& loss, int64_t passes) {
  const auto backward = [&] {
    const ::torch::AutoGradMode grad(true);
    zero_grad();
    Tensor sum = ::torch::zeros({}, ::torch::kFloat64);
    for (int64_t pass = 0; pass < passes; ++pass) {
      const Tensor part = loss(pass) / static_cast<double>(passes);
      part.backward();
      sum += part.detach();
    }
    return sum;
  };
  if (config.closure) {
    optimizer.step(backward);
  } else {
    backward();
    optimizer.step();
  }
}

// Steps of plain libtorch on the whole batch.
inline void steps_alone(const Equivalence& config, Net& net, ::torch::optim::Optimizer& optimizer,
                        int64_t steps, int64_t batch) {
  for (int64_t step = 0; step < steps; ++step) {
    step_once(
        config, optimizer, [&] { optimizer.zero_grad(); },
        [&](int64_t) { return loss_on(net, step, 0, batch); }, 1);
  }
}

// The reference: one rank, plain libtorch, batch `batch` a step.
inline std::vector<Tensor> train_alone(const Equivalence& config, int64_t batch) {
  ::torch::set_num_threads(1);  // threads that spin would take the cores from the other ranks
  Net net(config.dtype);
  const auto optimizer = config.make_optimizer(net->parameters());
  steps_alone(config, net, *optimizer, config.steps, batch);
  return net->parameters();
}

// Trains this rank's part and returns its parameters; checks identity after every step. The world
// is the process set of the options.
inline std::vector<Tensor> train_together(Engine& engine, const Equivalence& config) {
  DistributedOptimizerOptions options = on(engine);
  options.backward_passes_per_step = config.passes;
  if (config.change) config.change(options);
  const ProcessSet world(options.process_set, &engine);
  Net net(config.dtype);
  auto plain = config.make_optimizer(net->parameters());
  const int64_t whole = config.batch * world.size() * config.passes;
  steps_alone(config, net, *plain, config.steps_before, whole);
  if (config.group) options.groups = config.group(net->parameters());
  DistributedOptimizer optimizer(std::move(plain), net->named_parameters(), options);
  // The reference is the mean over the batch, whatever is done with the ranks' gradients.
  const double share = options.op == ReduceOp::kSum ? 1.0 / world.size() : 1.0;
  for (int64_t step = config.steps_before; step < config.steps; ++step) {
    const auto loss = [&](int64_t pass) {
      const int64_t first = (pass * world.size() + world.rank()) * config.batch;
      return loss_on(net, step, first, config.batch) * share;
    };
    step_once(
        config, optimizer, [&] { optimizer.zero_grad(); }, loss, config.passes);
    require_identical(engine, net->parameters(), "after step " + std::to_string(step),
                      options.process_set);
  }
  return net->parameters();
}

inline double largest_difference(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, (a[i].detach() - b[i].detach()).abs().max().item<double>());
  }
  return largest;
}

inline double tolerance_of(::torch::Dtype dtype) {
  return dtype == ::torch::kFloat64 ? 1e-9 : 1e-4;
}

}  // namespace khorus::torch::testing
