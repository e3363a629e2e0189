// The operations of torch_operations.h: views, submission, results. Those that wait are in
// blocking.cc.
//
// Called from user threads; the engine does the rest.
#include "khorus/torch_operations.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "torch_plugin/collectives.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

// Handle of an operation whose output the engine allocates. `input` is kept by its view.
Handle of_result(const WorkPtr& work, const at::Device& device) {
  return Handle(
      {work}, [work] { return tensor_of(work->result()); }, device);
}

// The view of the tensor's contents, contiguous.
NamedTensor contiguous_view(const Tensor& tensor, const char* operation, const std::string& name) {
  const std::string what = std::string(operation) + " tensor \"" + name + "\"";
  if (!tensor.defined()) throw_invalid(what + " is undefined; give a tensor that has memory");
  if (tensor.layout() != at::kStrided) throw_invalid(what + " is sparse; call to_dense() first");
  const TensorView view = view_of(tensor.detach().contiguous(), what);
  return {name, view, view};
}

std::vector<NamedTensor> members_of(const std::vector<Tensor>& tensors, const char* operation,
                                    const std::string& group) {
  std::vector<NamedTensor> members;
  for (const Tensor& tensor : tensors) {
    const std::string name = group.empty() ? "" : group + "." + std::to_string(members.size());
    members.push_back(contiguous_view(tensor, operation, name));
  }
  return members;
}

GroupHandle results_of(const std::vector<WorkPtr>& works, const std::vector<Tensor>& tensors) {
  std::vector<Handle> handles;
  for (size_t i = 0; i < works.size(); ++i) {
    handles.push_back(of_result(works[i], tensors[i].device()));
  }
  return GroupHandle(std::move(handles));
}

}  // namespace

// ---- alltoall

Handle alltoall_async(const Tensor& tensor, const std::vector<int64_t>& splits,
                      const CollectiveOptions& options) {
  const NamedTensor named = contiguous_view(tensor, "alltoall", options.name);
  return of_result(engine_of(options.engine)
                       .alltoall_async(named.name, named.input, splits, options.process_set),
                   tensor.device());
}

GroupHandle grouped_alltoall_async(const std::vector<Tensor>& tensors,
                                   const std::vector<std::vector<int64_t>>& splits,
                                   const CollectiveOptions& options) {
  return results_of(
      engine_of(options.engine)
          .grouped_alltoall_async(options.name, members_of(tensors, "alltoall", options.name),
                                  splits, options.process_set),
      tensors);
}

// ---- reducescatter

namespace {

// What travels of a tensor, and the handle of what comes back.
struct Compressible {
  CompressorPtr compression;
  Compressor::Compressed compressed;

  Compressible(const Tensor& tensor, const CompressorPtr& compressor)
      : compression(compressor), compressed{tensor, {}} {
    if (compression && tensor.defined()) compressed = compression->compress(tensor.detach());
  }
  Handle handle(const WorkPtr& work) const {
    const at::Device device = compressed.tensor.device();
    if (!compression) return of_result(work, device);
    return Handle(
        {work},
        [work, compression = compression, context = compressed.context] {
          return compression->decompress(tensor_of(work->result()), context);
        },
        device);
  }
};

}  // namespace

Handle reducescatter_async(const Tensor& tensor, const ReduceOptions& options) {
  const Compressible travels(tensor, options.compression);
  const NamedTensor named =
      contiguous_view(travels.compressed.tensor, "reducescatter", options.name);
  return travels.handle(engine_of(options.engine)
                            .reducescatter_async(named.name, named.input, core_options(options)));
}

GroupHandle grouped_reducescatter_async(const std::vector<Tensor>& tensors,
                                        const ReduceOptions& options) {
  std::vector<Compressible> travels;
  std::vector<Tensor> small;
  for (const Tensor& tensor : tensors) {
    small.push_back(travels.emplace_back(tensor, options.compression).compressed.tensor);
  }
  const std::vector<WorkPtr> works =
      engine_of(options.engine)
          .grouped_reducescatter_async(options.name,
                                       members_of(small, "reducescatter", options.name),
                                       core_options(options));
  std::vector<Handle> handles;
  for (size_t i = 0; i < works.size(); ++i) handles.push_back(travels[i].handle(works[i]));
  return GroupHandle(std::move(handles));
}

// ---- send and receive

Handle send_async(const Tensor& tensor, int peer, const SendOptions& options) {
  const NamedTensor named = contiguous_view(tensor, "send", "");
  return Handle(
      {engine_of(options.engine).send_async(named.input, peer, options.tag, options.process_set)},
      [tensor] { return tensor; }, tensor.device());
}

Handle recv_async(const Tensor& tensor, int peer, const SendOptions& options) {
  if (!tensor.defined()) throw_invalid("recv tensor is undefined; give a tensor that has memory");
  const Tensor plain = tensor.detach();
  // Contiguous memory is filled where it lies; else it is written when wait() returns.
  const Tensor landing =
      plain.is_contiguous() ? plain : at::empty_like(plain, at::MemoryFormat::Contiguous);
  return Handle(
      {engine_of(options.engine)
           .recv_async(view_of(landing, "recv tensor"), peer, options.tag, options.process_set)},
      [tensor, plain, landing] {
        const at::NoGradGuard no_grad;
        if (!plain.is_same(landing)) plain.copy_(landing);
        return tensor;
      },
      tensor.device());
}

// ---- join and process sets

int join(Engine* engine) {
  const WorkPtr work = engine_of(engine).join_async();
  throw_if_error(work->wait());
  return work->last_joined();
}

ProcessSet::ProcessSet(ProcessSetId id, Engine* engine) : id_(id) {
  Engine& used = engine_of(engine);
  Result<std::vector<int>> ranks = used.process_set_ranks(id);
  throw_if_error(ranks.status());
  ranks_ = std::move(*ranks);
  const auto mine = std::find(ranks_.begin(), ranks_.end(), used.rank());
  if (mine != ranks_.end()) rank_ = static_cast<int>(mine - ranks_.begin());
}

ProcessSet add_process_set(const std::vector<int>& ranks, Engine* engine) {
  const Result<ProcessSetId> id = engine_of(engine).add_process_set(ranks);
  throw_if_error(id.status());
  return ProcessSet(id.value(), engine);
}

void remove_process_set(const ProcessSet& process_set, Engine* engine) {
  throw_if_error(engine_of(engine).remove_process_set(process_set.process_set_id()));
}

}  // namespace khorus::torch
