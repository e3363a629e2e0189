// Broadcast of what a training run starts from: parameters, buffers, optimizer state.
//
// Optimizer state travels as the bytes that torch::save writes: first their number, then the bytes.
// So one path serves every optimizer that libtorch can save, whatever its state looks like.
#include <ATen/ATen.h>
#include <torch/serialize.h>

#include <sstream>

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

// The bytes of the root on every rank.
std::string broadcast_bytes(const std::string& bytes, int root_rank,
                            const CollectiveOptions& options) {
  Tensor size = at::empty({1}, at::kLong);
  size.fill_(static_cast<int64_t>(bytes.size()));
  broadcast_(size, root_rank, named(options, "optimizer_state", "size"));
  std::string result = bytes;
  result.resize(static_cast<size_t>(size.item<int64_t>()));
  const Tensor view = at::from_blob(result.data(), {size.item<int64_t>()}, at::kByte);
  broadcast_(view, root_rank, named(options, "optimizer_state", "bytes"));
  return result;
}

void load_optimizer(::torch::optim::Optimizer& optimizer, const std::string& bytes) {
  // Loading adds to the state that is there; what the root does not have must go first.
  auto* distributed = dynamic_cast<DistributedOptimizer*>(&optimizer);
  (distributed != nullptr ? distributed->state() : optimizer.state()).clear();
  std::istringstream stream(bytes);
  try {
    ::torch::load(optimizer, stream);
  } catch (const c10::Error& error) {
    throw_invalid(
        std::string("this rank's optimizer cannot take the root's state; make the same kind of "
                    "optimizer with the same parameter groups on every rank: ") +
        error.what_without_backtrace());
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
  std::ostringstream stream;
  if (is_root) ::torch::save(optimizer, stream);
  const std::string bytes = broadcast_bytes(stream.str(), root_rank, options);
  if (!is_root) load_optimizer(optimizer, bytes);
}

}  // namespace khorus::torch
