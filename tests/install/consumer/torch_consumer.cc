// A user's program on libtorch: one step of a wrapped optimizer whose gradients differ by rank.
#include <khorus/torch.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cstdio>
#include <memory>

int main() {
  khorus::init();
  torch::nn::Linear model(1, 1);
  model->weight.detach().zero_();
  model->bias.detach().zero_();
  khorus::torch::broadcast_parameters(*model, /*root_rank=*/0);
  khorus::torch::DistributedOptimizer optimizer(
      std::make_unique<torch::optim::SGD>(model->parameters(), torch::optim::SGDOptions(1.0)),
      model->named_parameters());
  optimizer.zero_grad();
  const auto input = torch::full({1, 1}, static_cast<double>(khorus::rank() + 1));
  model->forward(input).sum().backward();
  optimizer.step();
  std::printf("size %d weight %g\n", khorus::size(), model->weight.item<double>());
  khorus::shutdown();
}
