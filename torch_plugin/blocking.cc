// The blocking forms of the collectives, and their gradients.
//
// A blocking form waits for the asynchronous one. Those that return new tensors are differentiable
// (collective_gradient.h); without autograd they cost nothing more. Called from user threads.
#include <ATen/ATen.h>

#include "torch_plugin/collective_gradient.h"
#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

void require_gradient(const char* operation, const ReduceOptions& options) {
  if (options.op == ReduceOp::kSum || options.op == ReduceOp::kAverage) return;
  throw_invalid(std::string(operation) + " \"" + options.name + "\": there is no gradient of op " +
                std::string(to_string(options.op)) + "; detach() the tensor or use sum or average");
}

CollectiveOptions plain(const ReduceOptions& options) {
  return {gradient_name(options.name), options.process_set, options.engine};
}

ReduceOptions summed(const CollectiveOptions& options) {
  ReduceOptions sum;
  sum.name = gradient_name(options.name);
  sum.op = ReduceOp::kSum;
  sum.process_set = options.process_set;
  sum.engine = options.engine;
  return sum;
}

// Every rank's gradients of what it got from this rank: the rows `begin` to `begin + count`.
struct Rows {
  int64_t begin = 0, count = 0;
};

Rows rows_of_rank(const std::vector<int64_t>& extents, int rank) {
  Rows rows;
  for (int r = 0; r < rank; ++r) rows.begin += extents.at(static_cast<size_t>(r));
  rows.count = extents.at(static_cast<size_t>(rank));
  return rows;
}

std::vector<int64_t> extents_of(const Handle& handle) { return handle.works()[0]->first_extents(); }

}  // namespace

// ---- allreduce: the gradient is reduced as the tensor was

std::vector<Tensor> grouped_allreduce(const std::vector<Tensor>& tensors,
                                      const ReduceOptions& options) {
  const auto run = [&] { return grouped_allreduce_async(tensors, options).wait(); };
  if (!wants_gradient(tensors)) return run();
  return differentiable(tensors, run, [options](const Tensors& gradients) {
    require_gradient("allreduce", options);
    ReduceOptions back = options;
    back.name = gradient_name(options.name);
    return grouped_allreduce(gradients, back);
  });
}

Tensor allreduce(const Tensor& tensor, const ReduceOptions& options) {
  const auto run = [&] { return Tensors{allreduce_async(tensor, options).wait()}; };
  if (!wants_gradient({tensor})) return run()[0];
  return differentiable({tensor}, run, [options](const Tensors& gradients) {
    require_gradient("allreduce", options);
    ReduceOptions back = options;
    back.name = gradient_name(options.name);
    return Tensors{allreduce(gradients[0], back)};
  })[0];
}

Tensor allreduce_(const Tensor& tensor, const ReduceOptions& options) {
  allreduce_async_(tensor, options).wait();
  return tensor;
}

std::vector<Tensor> grouped_allreduce_(const std::vector<Tensor>& tensors,
                                       const ReduceOptions& options) {
  grouped_allreduce_async_(tensors, options).wait();
  return tensors;
}

Tensor sparse_allreduce(const Tensor& tensor, const ReduceOptions& options) {
  return sparse_allreduce_async(tensor, options).wait();
}

// ---- allgather: the gradients of this rank's rows, summed over the ranks

std::vector<Tensor> grouped_allgather(const std::vector<Tensor>& tensors,
                                      const CollectiveOptions& options) {
  GroupHandle handle = grouped_allgather_async(tensors, options);
  const auto run = [&handle] { return handle.wait(); };
  if (!wants_gradient(tensors)) return run();
  handle.wait();  // the extents are known now
  const int rank = ProcessSet(options.process_set, options.engine).rank();
  std::vector<Rows> rows;
  std::vector<std::vector<int64_t>> shapes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    rows.push_back(rows_of_rank(extents_of(handle.members()[i]), rank));
    shapes.push_back(tensors[i].sizes().vec());
  }
  return differentiable(tensors, run, [options, rows, shapes](const Tensors& gradients) {
    Tensors sums = grouped_allreduce(gradients, summed(options));
    for (size_t i = 0; i < sums.size(); ++i) {
      sums[i] = sums[i].narrow(0, rows[i].begin, rows[i].count).view(shapes[i]);
    }
    return sums;
  });
}

Tensor allgather(const Tensor& tensor, const CollectiveOptions& options) {
  Handle handle = allgather_async(tensor, options);
  const auto run = [&handle] { return Tensors{handle.wait()}; };
  if (!wants_gradient({tensor})) return run()[0];
  handle.wait();  // the extents are known now
  const Rows rows =
      rows_of_rank(extents_of(handle), ProcessSet(options.process_set, options.engine).rank());
  const auto backward = [options, rows, shape = tensor.sizes().vec()](const Tensors& gradients) {
    const Tensor sum = allreduce(gradients[0], summed(options));
    return Tensors{sum.narrow(0, rows.begin, rows.count).view(shape)};
  };
  return differentiable({tensor}, run, backward)[0];
}

// ---- broadcast: the gradients of all ranks belong to the root's tensor

std::vector<Tensor> grouped_broadcast(const std::vector<Tensor>& tensors, int root_rank,
                                      const CollectiveOptions& options) {
  const auto run = [&] { return grouped_broadcast_async(tensors, root_rank, options).wait(); };
  if (!wants_gradient(tensors)) return run();
  const bool is_root = engine_of(options.engine).rank() == root_rank;
  return differentiable(tensors, run, [options, is_root](const Tensors& gradients) {
    Tensors sums = grouped_allreduce(gradients, summed(options));
    for (Tensor& sum : sums) {
      if (!is_root) sum = at::zeros_like(sum);
    }
    return sums;
  });
}

Tensor broadcast(const Tensor& tensor, int root_rank, const CollectiveOptions& options) {
  const auto run = [&] { return Tensors{broadcast_async(tensor, root_rank, options).wait()}; };
  if (!wants_gradient({tensor})) return run()[0];
  const bool is_root = engine_of(options.engine).rank() == root_rank;
  return differentiable({tensor}, run, [options, is_root](const Tensors& gradients) {
    const Tensor sum = allreduce(gradients[0], summed(options));
    return Tensors{is_root ? sum : at::zeros_like(sum)};
  })[0];
}

Tensor broadcast_(const Tensor& tensor, int root_rank, const CollectiveOptions& options) {
  broadcast_async_(tensor, root_rank, options).wait();
  return tensor;
}

std::vector<Tensor> grouped_broadcast_(const std::vector<Tensor>& tensors, int root_rank,
                                       const CollectiveOptions& options) {
  grouped_broadcast_async_(tensors, root_rank, options).wait();
  return tensors;
}

// ---- alltoall: the gradients go back where the rows came from

std::vector<AlltoallResult> grouped_alltoall(const std::vector<Tensor>& tensors,
                                             const std::vector<std::vector<int64_t>>& splits,
                                             const CollectiveOptions& options) {
  GroupHandle handle = grouped_alltoall_async(tensors, splits, options);
  Tensors outputs = handle.wait();
  std::vector<std::vector<int64_t>> received;
  for (const Handle& member : handle.members()) received.push_back(extents_of(member));
  if (wants_gradient(tensors)) {
    const auto run = [&outputs] { return outputs; };
    outputs = differentiable(tensors, run, [options, received](const Tensors& gradients) {
      CollectiveOptions back = options;
      back.name = gradient_name(options.name);
      Tensors results;
      for (const auto& part : grouped_alltoall(gradients, received, back)) {
        results.push_back(part.output);
      }
      return results;
    });
  }
  std::vector<AlltoallResult> results;
  for (size_t i = 0; i < outputs.size(); ++i) results.push_back({outputs[i], received[i]});
  return results;
}

AlltoallResult alltoall(const Tensor& tensor, const std::vector<int64_t>& splits,
                        const CollectiveOptions& options) {
  Handle handle = alltoall_async(tensor, splits, options);
  const Tensor output = handle.wait();
  const std::vector<int64_t> received = extents_of(handle);
  if (!wants_gradient({tensor})) return {output, received};
  const auto run = [&output] { return Tensors{output}; };
  const Tensors recorded =
      differentiable({tensor}, run, [options, received](const Tensors& gradients) {
        CollectiveOptions back = options;
        back.name = gradient_name(options.name);
        return Tensors{alltoall(gradients[0], received, back).output};
      });
  return {recorded[0], received};
}

// ---- reducescatter: the ranks' gradients together are that of the whole tensor

namespace {

double factor_of(const ReduceOptions& options) {
  const int size = ProcessSet(options.process_set, options.engine).size();
  return options.prescale_factor * options.postscale_factor /
         (options.op == ReduceOp::kAverage ? size : 1);
}

}  // namespace

std::vector<Tensor> grouped_reducescatter(const std::vector<Tensor>& tensors,
                                          const ReduceOptions& options) {
  const auto run = [&] { return grouped_reducescatter_async(tensors, options).wait(); };
  if (!wants_gradient(tensors)) return run();
  return differentiable(tensors, run, [options](const Tensors& gradients) {
    require_gradient("reducescatter", options);
    Tensors whole = grouped_allgather(gradients, plain(options));
    for (Tensor& gradient : whole) gradient = gradient * factor_of(options);
    return whole;
  });
}

Tensor reducescatter(const Tensor& tensor, const ReduceOptions& options) {
  const auto run = [&] { return Tensors{reducescatter_async(tensor, options).wait()}; };
  if (!wants_gradient({tensor})) return run()[0];
  return differentiable({tensor}, run, [options](const Tensors& gradients) {
    require_gradient("reducescatter", options);
    return Tensors{allgather(gradients[0], plain(options)) * factor_of(options)};
  })[0];
}

// ---- the rest has no gradient

void send(const Tensor& tensor, int peer, const SendOptions& options) {
  send_async(tensor, peer, options).wait();
}

Tensor recv(const Tensor& tensor, int peer, const SendOptions& options) {
  return recv_async(tensor, peer, options).wait();
}

void barrier(const CollectiveOptions& options) {
  throw_if_error(
      engine_of(options.engine).barrier_async(options.name, options.process_set)->wait());
}

}  // namespace khorus::torch
