// Collectives on tensors: each makes views, submits to the engine and says how the result is made.
// The forms that wait are in blocking.cc.
//
// Called from user threads; the engine does the rest.
#include "torch_plugin/collectives.h"

#include <ATen/ATen.h>

#include <any>

#include "torch_plugin/device.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

std::string describe(const char* operation, const std::string& name) {
  return std::string(operation) + (name.empty() ? " tensor" : " tensor \"" + name + "\"");
}

std::string member_name(const std::string& group, size_t index) {
  return group.empty() ? std::string() : group + "." + std::to_string(index);
}

// One tensor on its way through an operation whose output has the shape of its input: what goes to
// the engine, and what is done with the result.
struct Passage {
  Tensor input;   // contiguous
  Tensor output;  // contiguous; the input itself when its memory is ours or the caller's in place
  Tensor target;  // in place: what the result is written to, unless it is there already
  CompressorPtr compression;
  std::any context;  // of the compressor

  NamedTensor named(const std::string& name, const char* operation) const {
    const std::string what = describe(operation, name);
    const TensorView view = view_of(input, what);
    return {name, view, output.is_same(input) ? view : view_of(output, what)};
  }
  Tensor finish() const {
    const at::NoGradGuard no_grad;
    const Tensor arrived = compression ? compression->decompress(output, context) : output;
    if (!target.defined()) return arrived;
    if (!target.is_same(arrived)) target.copy_(arrived);
    return target;
  }
  Handle handle(WorkPtr work) const {
    return Handle(
        {std::move(work)}, [passage = *this] { return passage.finish(); }, input.device());
  }
};

void require_dense(const Tensor& tensor, const std::string& what) {
  if (!tensor.defined()) throw_invalid(what + " is undefined; give a tensor that has memory");
  if (tensor.layout() != at::kStrided) {
    throw_invalid(what + " is sparse; only dense tensors are carried: call to_dense() first");
  }
}

Passage make_passage(const Tensor& tensor, bool in_place, const std::string& what,
                     const CompressorPtr& compression = nullptr) {
  require_dense(tensor, what);
  const at::NoGradGuard no_grad;
  const Tensor plain = tensor.detach();
  Passage passage;
  Tensor travels = plain;
  if (compression) {
    Compressor::Compressed compressed = compression->compress(plain);
    require_dense(compressed.tensor, what + ", compressed,");
    travels = compressed.tensor;
    passage.compression = compression;
    passage.context = std::move(compressed.context);
  }
  passage.input = travels.contiguous();
  const bool ours = !passage.input.is_alias_of(plain);
  passage.output = in_place || ours ? passage.input
                                    : at::empty_like(passage.input, at::MemoryFormat::Contiguous);
  if (in_place) passage.target = plain;
  return passage;
}

Handle start_allreduce(const Tensor& tensor, const ReduceOptions& options, bool in_place) {
  const Passage passage =
      make_passage(tensor, in_place, describe("allreduce", options.name), options.compression);
  const NamedTensor named = passage.named(options.name, "allreduce");
  return passage.handle(
      engine_of(options.engine)
          .allreduce_async(named.name, named.input, named.output, core_options(options)));
}

std::vector<Handle> start_group(const NamedTensors& tensors, const ReduceOptions& options,
                                bool in_place) {
  std::vector<Passage> passages;
  std::vector<NamedTensor> members;
  for (const auto& [name, tensor] : tensors) {
    passages.push_back(
        make_passage(tensor, in_place, describe("allreduce", name), options.compression));
    members.push_back(passages.back().named(name, "allreduce"));
  }
  const std::vector<WorkPtr> works =
      engine_of(options.engine)
          .grouped_allreduce_async(options.name, members, core_options(options));
  std::vector<Handle> handles;
  for (size_t i = 0; i < works.size(); ++i) handles.push_back(passages[i].handle(works[i]));
  return handles;
}

NamedTensors numbered(const std::string& group, const std::vector<Tensor>& tensors) {
  NamedTensors named;
  for (const Tensor& tensor : tensors) {
    named.emplace_back(member_name(group, named.size()), tensor);
  }
  return named;
}

Handle start_broadcast(const Tensor& tensor, int root_rank, const CollectiveOptions& options,
                       bool in_place) {
  const Passage passage = make_passage(tensor, in_place, describe("broadcast", options.name));
  const NamedTensor named = passage.named(options.name, "broadcast");
  return passage.handle(
      engine_of(options.engine)
          .broadcast_async(named.name, named.input, named.output, root_rank, options.process_set));
}

Handle gathered(const WorkPtr& work, const at::Device& device) {
  return Handle(
      {work}, [work] { return tensor_of(work->result()); }, device);
}

}  // namespace

khorus::AllreduceOptions core_options(const ReduceOptions& options) {
  khorus::AllreduceOptions core;
  core.op = options.op;
  core.prescale = options.prescale_factor;
  core.postscale = options.postscale_factor;
  core.process_set = options.process_set;
  return core;
}

Handle::Handle(std::vector<WorkPtr> works, std::function<Tensor()> finish, at::Device device)
    : works_(std::move(works)), finish_(std::move(finish)), device_(device) {}

bool Handle::poll() const noexcept {
  for (const WorkPtr& work : works_) {
    if (!work->poll()) return false;
  }
  return true;
}

Status Handle::settle() const { return torch::settle(works_, device_); }

Tensor Handle::wait() {
  throw_if_error(settle());
  if (finish_) {
    result_ = finish_();
    finish_ = nullptr;
  }
  return result_;
}

bool GroupHandle::poll() const noexcept {
  for (const Handle& member : members_) {
    if (!member.poll()) return false;
  }
  return true;
}

std::vector<Tensor> GroupHandle::wait() {
  Status first;
  for (const Handle& member : members_) {
    Status status = member.settle();
    if (first.ok() && !status.ok()) first = std::move(status);
  }
  throw_if_error(first);
  std::vector<Tensor> results;
  for (Handle& member : members_) results.push_back(member.wait());
  return results;
}

Handle allreduce_async(const Tensor& tensor, const ReduceOptions& options) {
  return start_allreduce(tensor, options, /*in_place=*/false);
}
Handle allreduce_async_(const Tensor& tensor, const ReduceOptions& options) {
  return start_allreduce(tensor, options, /*in_place=*/true);
}

std::vector<Handle> start_group_allreduce(const NamedTensors& tensors,
                                          const ReduceOptions& options) {
  return start_group(tensors, options, /*in_place=*/true);
}

GroupHandle grouped_allreduce_async(const std::vector<Tensor>& tensors,
                                    const ReduceOptions& options) {
  return GroupHandle(start_group(numbered(options.name, tensors), options, /*in_place=*/false));
}
GroupHandle grouped_allreduce_async_(const std::vector<Tensor>& tensors,
                                     const ReduceOptions& options) {
  return GroupHandle(start_group(numbered(options.name, tensors), options, /*in_place=*/true));
}

Handle allgather_async(const Tensor& tensor, const CollectiveOptions& options) {
  const Passage passage =
      make_passage(tensor, /*in_place=*/true, describe("allgather", options.name));
  const NamedTensor named = passage.named(options.name, "allgather");
  return gathered(
      engine_of(options.engine).allgather_async(named.name, named.input, options.process_set),
      tensor.device());
}

GroupHandle grouped_allgather_async(const std::vector<Tensor>& tensors,
                                    const CollectiveOptions& options) {
  std::vector<NamedTensor> members;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string name = member_name(options.name, i);
    const Passage passage =
        make_passage(tensors[i], /*in_place=*/true, describe("allgather", name));
    members.push_back(passage.named(name, "allgather"));
  }
  const std::vector<WorkPtr> works =
      engine_of(options.engine).grouped_allgather_async(options.name, members, options.process_set);
  std::vector<Handle> handles;
  for (size_t i = 0; i < works.size(); ++i) {
    handles.push_back(gathered(works[i], tensors[i].device()));
  }
  return GroupHandle(std::move(handles));
}

Handle broadcast_async(const Tensor& tensor, int root_rank, const CollectiveOptions& options) {
  return start_broadcast(tensor, root_rank, options, /*in_place=*/false);
}
Handle broadcast_async_(const Tensor& tensor, int root_rank, const CollectiveOptions& options) {
  return start_broadcast(tensor, root_rank, options, /*in_place=*/true);
}

namespace {

GroupHandle start_group_broadcast(const std::vector<Tensor>& tensors, int root_rank,
                                  const CollectiveOptions& options, bool in_place) {
  std::vector<Passage> passages;
  std::vector<NamedTensor> members;
  for (const auto& [name, tensor] : numbered(options.name, tensors)) {
    passages.push_back(make_passage(tensor, in_place, describe("broadcast", name)));
    members.push_back(passages.back().named(name, "broadcast"));
  }
  const std::vector<WorkPtr> works =
      engine_of(options.engine)
          .grouped_broadcast_async(options.name, members, root_rank, options.process_set);
  std::vector<Handle> handles;
  for (size_t i = 0; i < works.size(); ++i) handles.push_back(passages[i].handle(works[i]));
  return GroupHandle(std::move(handles));
}

}  // namespace

GroupHandle grouped_broadcast_async(const std::vector<Tensor>& tensors, int root_rank,
                                    const CollectiveOptions& options) {
  return start_group_broadcast(tensors, root_rank, options, /*in_place=*/false);
}
GroupHandle grouped_broadcast_async_(const std::vector<Tensor>& tensors, int root_rank,
                                     const CollectiveOptions& options) {
  return start_group_broadcast(tensors, root_rank, options, /*in_place=*/true);
}

}  // namespace khorus::torch
