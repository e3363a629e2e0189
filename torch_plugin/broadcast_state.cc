// Broadcast of what a training run starts from: parameters, buffers, optimizer state.
//
// Optimizer state travels as the bytes that torch::save writes: first their number, then the bytes.
// So one path serves every optimizer that libtorch can save, whatever its state looks like.
#include <ATen/ATen.h>
#include <torch/serialize.h>

#include <exception>
#include <sstream>

#include "torch_plugin/device.h"
#include "torch_plugin/optimizer_tree.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

CollectiveOptions named(const CollectiveOptions& options, const std::string& kind,
                        const std::string& name) {
  CollectiveOptions result = options;
  result.name = (options.name.empty() ? kind : options.name + "." + kind) + "." + name;
  return result;
}

void start_broadcasts(const ::torch::OrderedDict<std::string, Tensor>& tensors,
                      const std::string& kind, int root_rank, const CollectiveOptions& options,
                      std::vector<Handle>& handles) {
  for (const auto& item : tensors) {
    if (!item.value().defined()) continue;
    handles.push_back(broadcast_async_(item.value(), root_rank, named(options, kind, item.key())));
  }
}

void finish(std::vector<Handle> handles) { GroupHandle(std::move(handles)).wait(); }

// The bytes of the root on every rank. `failed`: the root has none to give, and every rank throws.
std::string broadcast_bytes(const std::string& bytes, bool failed, int root_rank,
                            const CollectiveOptions& options) {
  Tensor size = at::empty({1}, at::kLong);
  size.fill_(failed ? int64_t{-1} : static_cast<int64_t>(bytes.size()));
  broadcast_(size, root_rank, named(options, "optimizer_state", "size"));
  const int64_t count = size.item<int64_t>();
  if (count < 0) {
    throw_invalid("rank " + std::to_string(root_rank) +
                  " could not save its optimizer to broadcast it; its own error says why");
  }
  std::string result = bytes;
  result.resize(static_cast<size_t>(count));
  const Tensor view = at::from_blob(result.data(), {count}, at::kByte);
  broadcast_(view, root_rank, named(options, "optimizer_state", "bytes"));
  return result;
}

std::string save_optimizer(::torch::optim::Optimizer& optimizer) {
  drop_lbfgs_scratch(optimizer);
  std::ostringstream stream;
  ::torch::save(optimizer, stream);
  return stream.str();
}

bool has_gpu_parameters(const ::torch::optim::Optimizer& optimizer) {
  for (const auto& group : optimizer.param_groups()) {
    for (const Tensor& parameter : group.params()) {
      if (is_gpu(parameter.device())) return true;
    }
  }
  return false;
}

void load_optimizer(::torch::optim::Optimizer& optimizer, const std::string& bytes) {
  // Loading adds to the state that is there; what the root does not have must go first.
  auto* distributed = dynamic_cast<DistributedOptimizer*>(&optimizer);
  (distributed != nullptr ? distributed->state() : optimizer.state()).clear();
  std::istringstream stream(bytes);
  try {
    ::torch::load(optimizer, stream, at::Device(at::kCPU));  // the root's GPU is not this rank's
  } catch (const c10::Error& error) {
    throw_invalid(
        std::string("this rank's optimizer cannot take the root's state; make the same kind of "
                    "optimizer with the same parameter groups on every rank: ") +
        error.what_without_backtrace());
  }
  if (has_gpu_parameters(optimizer)) {
    restore_from_tree(optimizer, tree_of(optimizer, {}), "broadcast_optimizer_state: ");
  }
}

}  // namespace

void broadcast_parameters(const ::torch::nn::Module& module, int root_rank,
                          const CollectiveOptions& options) {
  std::vector<Handle> handles;
  start_broadcasts(module.named_parameters(), "parameter", root_rank, options, handles);
  start_broadcasts(module.named_buffers(), "buffer", root_rank, options, handles);
  finish(std::move(handles));
}

void broadcast_parameters(const ::torch::OrderedDict<std::string, Tensor>& parameters,
                          int root_rank, const CollectiveOptions& options) {
  std::vector<Handle> handles;
  start_broadcasts(parameters, "parameter", root_rank, options, handles);
  finish(std::move(handles));
}

void broadcast_optimizer_state(::torch::optim::Optimizer& optimizer, int root_rank,
                               const CollectiveOptions& options) {
  const bool is_root = engine_of(options.engine).rank() == root_rank;
  std::string mine;
  std::exception_ptr failure;
  try {
    if (is_root) mine = save_optimizer(optimizer);
  } catch (...) {
    failure = std::current_exception();  // thrown once the others know
  }
  try {
    const std::string bytes = broadcast_bytes(mine, failure != nullptr, root_rank, options);
    if (!is_root) load_optimizer(optimizer, bytes);
  } catch (...) {
    if (failure) std::rethrow_exception(failure);
    throw;
  }
}

}  // namespace khorus::torch
