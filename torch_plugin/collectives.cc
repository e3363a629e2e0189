// Collectives on tensors: each makes views, submits to the engine and says how the result is made.
//
// Called from user threads; the engine does the rest.
#include <ATen/ATen.h>

#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

khorus::AllreduceOptions core_options(const ReduceOptions& options) {
  khorus::AllreduceOptions core;
  core.op = options.op;
  core.prescale = options.prescale_factor;
  core.postscale = options.postscale_factor;
  core.process_set = options.process_set;
  return core;
}

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
  Tensor output;  // contiguous; the input itself when the operation is in place
  Tensor target;  // what the caller gets: written from `output` when that is other memory

  NamedTensor named(const std::string& name, const char* operation) const {
    const std::string what = describe(operation, name);
    return {name, view_of(input, what), view_of(output, what)};
  }
  Handle handle(WorkPtr work) const {
    return Handle(std::move(work), [output = output, target = target](const Work&) {
      if (!target.is_same(output)) {
        at::NoGradGuard no_grad;
        target.copy_(output);
      }
      return target;
    });
  }
};

Passage make_passage(const Tensor& tensor, bool in_place, const char* operation,
                     const std::string& name) {
  const std::string what = describe(operation, name);
  if (!tensor.defined()) throw_invalid(what + " is undefined; give a tensor that has memory");
  if (tensor.layout() != at::kStrided) {
    throw_invalid(what + " is sparse; only dense tensors are carried: call to_dense() first");
  }
  Passage passage;
  const Tensor plain = tensor.detach();
  passage.input = plain.contiguous();
  if (in_place) {
    passage.output = passage.input;
    // Contiguous memory is reduced where it lies; else the copy is written back at wait().
    passage.target = plain.is_contiguous() ? passage.output : plain;
  } else {
    passage.output = at::empty_like(passage.input, at::MemoryFormat::Contiguous);
    passage.target = passage.output;
  }
  return passage;
}

Handle start_allreduce(const Tensor& tensor, const ReduceOptions& options, bool in_place) {
  const Passage passage = make_passage(tensor, in_place, "allreduce", options.name);
  const NamedTensor named = passage.named(options.name, "allreduce");
  return passage.handle(
      engine_of(options.engine)
          .allreduce_async(named.name, named.input, named.output, core_options(options)));
}

GroupHandle start_grouped_allreduce(const std::vector<Tensor>& tensors,
                                    const ReduceOptions& options, bool in_place) {
  std::vector<Passage> passages;
  std::vector<NamedTensor> members;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string name = member_name(options.name, i);
    passages.push_back(make_passage(tensors[i], in_place, "allreduce", name));
    members.push_back(passages.back().named(name, "allreduce"));
  }
  const std::vector<WorkPtr> works =
      engine_of(options.engine)
          .grouped_allreduce_async(options.name, members, core_options(options));
  std::vector<Handle> handles;
  for (size_t i = 0; i < works.size(); ++i) handles.push_back(passages[i].handle(works[i]));
  return GroupHandle(std::move(handles));
}

Handle start_broadcast(const Tensor& tensor, int root_rank, const CollectiveOptions& options,
                       bool in_place) {
  const Passage passage = make_passage(tensor, in_place, "broadcast", options.name);
  const NamedTensor named = passage.named(options.name, "broadcast");
  return passage.handle(
      engine_of(options.engine)
          .broadcast_async(named.name, named.input, named.output, root_rank, options.process_set));
}

Tensor gathered(const Work& work) { return tensor_of(work.result()); }

}  // namespace

Handle::Handle(WorkPtr work, std::function<Tensor(const Work&)> finish)
    : work_(std::move(work)), finish_(std::move(finish)) {}

Tensor Handle::wait() {
  throw_if_error(work_->wait());
  if (finish_) {
    result_ = finish_(*work_);
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
  std::vector<WorkPtr> works;
  for (const Handle& member : members_) works.push_back(member.work());
  throw_if_error(wait_all(works));
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
Tensor allreduce(const Tensor& tensor, const ReduceOptions& options) {
  return allreduce_async(tensor, options).wait();
}
Tensor allreduce_(const Tensor& tensor, const ReduceOptions& options) {
  allreduce_async_(tensor, options).wait();
  return tensor;
}

GroupHandle grouped_allreduce_async(const std::vector<Tensor>& tensors,
                                    const ReduceOptions& options) {
  return start_grouped_allreduce(tensors, options, /*in_place=*/false);
}
GroupHandle grouped_allreduce_async_(const std::vector<Tensor>& tensors,
                                     const ReduceOptions& options) {
  return start_grouped_allreduce(tensors, options, /*in_place=*/true);
}
std::vector<Tensor> grouped_allreduce(const std::vector<Tensor>& tensors,
                                      const ReduceOptions& options) {
  return grouped_allreduce_async(tensors, options).wait();
}
std::vector<Tensor> grouped_allreduce_(const std::vector<Tensor>& tensors,
                                       const ReduceOptions& options) {
  grouped_allreduce_async_(tensors, options).wait();
  return tensors;
}

Handle allgather_async(const Tensor& tensor, const CollectiveOptions& options) {
  const Passage passage = make_passage(tensor, /*in_place=*/true, "allgather", options.name);
  const NamedTensor named = passage.named(options.name, "allgather");
  return Handle(
      engine_of(options.engine).allgather_async(named.name, named.input, options.process_set),
      gathered);
}
Tensor allgather(const Tensor& tensor, const CollectiveOptions& options) {
  return allgather_async(tensor, options).wait();
}

GroupHandle grouped_allgather_async(const std::vector<Tensor>& tensors,
                                    const CollectiveOptions& options) {
  std::vector<NamedTensor> members;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string name = member_name(options.name, i);
    const Passage passage = make_passage(tensors[i], /*in_place=*/true, "allgather", name);
    members.push_back(passage.named(name, "allgather"));
  }
  std::vector<Handle> handles;
  for (WorkPtr& work : engine_of(options.engine)
                           .grouped_allgather_async(options.name, members, options.process_set)) {
    handles.emplace_back(std::move(work), gathered);
  }
  return GroupHandle(std::move(handles));
}
std::vector<Tensor> grouped_allgather(const std::vector<Tensor>& tensors,
                                      const CollectiveOptions& options) {
  return grouped_allgather_async(tensors, options).wait();
}

Handle broadcast_async(const Tensor& tensor, int root_rank, const CollectiveOptions& options) {
  return start_broadcast(tensor, root_rank, options, /*in_place=*/false);
}
Handle broadcast_async_(const Tensor& tensor, int root_rank, const CollectiveOptions& options) {
  return start_broadcast(tensor, root_rank, options, /*in_place=*/true);
}
Tensor broadcast(const Tensor& tensor, int root_rank, const CollectiveOptions& options) {
  return broadcast_async(tensor, root_rank, options).wait();
}
Tensor broadcast_(const Tensor& tensor, int root_rank, const CollectiveOptions& options) {
  broadcast_async_(tensor, root_rank, options).wait();
  return tensor;
}

void barrier(const CollectiveOptions& options) {
  throw_if_error(
      engine_of(options.engine).barrier_async(options.name, options.process_set)->wait());
}

}  // namespace khorus::torch
