// The allreduce of sparse tensors: an all-or-nothing group of two allgathers, indices and values.
//
// Both are gathered in rank order and summed in that order when they are coalesced, so all ranks
// get the same bits. The engine compares dtypes and dense dimensions; what it cannot see (the
// sparse dimensions' extents, the operation, the factors) travels in rows before each rank's
// indices, so that all ranks find the same mismatch. Called from user threads.
#include <ATen/ATen.h>

#include <any>
#include <bit>

#include "torch_plugin/tensor_view.h"

namespace khorus::torch {
namespace {

void check_sparse(const Tensor& tensor, const ReduceOptions& options) {
  const std::string what = "sparse allreduce \"" + options.name + "\"";
  if (!tensor.defined() || tensor.layout() != at::kSparse) {
    throw_invalid(what + " was given a tensor that is not sparse COO; use allreduce");
  }
  if (!at::isFloatingType(tensor.scalar_type())) {
    throw_invalid(what + " was given " + at::toString(tensor.scalar_type()) +
                  "; it works on floating types");
  }
  if (options.op != ReduceOp::kSum && options.op != ReduceOp::kAverage) {
    throw_invalid(what + " knows sum and average, not " + std::string(to_string(options.op)));
  }
}

// What the ranks must agree on, in front of the indices: extents, operation, factor.
constexpr int64_t kHeaderRows = 3;

Tensor header_of(const Tensor& tensor, const ReduceOptions& options) {
  const int64_t columns = tensor.sparse_dim();
  const Tensor header = at::empty({kHeaderRows, columns}, at::kLong);
  for (int64_t d = 0; d < columns; ++d) header[0][d] = tensor.size(d);
  header[1].fill_(static_cast<int64_t>(options.op));
  header[2].fill_(std::bit_cast<int64_t>(options.prescale_factor * options.postscale_factor));
  return header.to(tensor.device());
}

std::string words_of(const Tensor& header) {
  std::string extents;
  for (int64_t d = 0; d < header.size(1); ++d) {
    extents += (d == 0 ? "" : ",") + std::to_string(header[0][d].item<int64_t>());
  }
  const auto op = static_cast<ReduceOp>(header[1][0].item<int64_t>());
  return "extents [" + extents + "], op " + std::string(to_string(op)) + ", factor " +
         std::to_string(std::bit_cast<double>(header[2][0].item<int64_t>()));
}

// Takes the headers off. `rows`: of each rank; none for a rank that has joined. All ranks see the
// same rows, so all throw or none.
Tensor checked_indices(const Tensor& gathered, const std::vector<int64_t>& rows,
                       const std::string& name) {
  std::vector<Tensor> indices;
  int64_t begin = 0, first = -1;
  Tensor expected;
  for (size_t rank = 0; rank < rows.size(); begin += rows[rank++]) {
    if (rows[rank] == 0) continue;
    const Tensor header = gathered.narrow(0, begin, kHeaderRows);
    if (first < 0) {
      first = static_cast<int64_t>(rank);
      expected = header;
    } else if (!header.equal(expected)) {
      throw Error(Status(StatusCode::kMismatch,
                         "sparse allreduce \"" + name + "\": rank " + std::to_string(first) +
                             " of the set has " + words_of(expected) + ", rank " +
                             std::to_string(rank) + " has " + words_of(header) +
                             "; give the same on all ranks"));
    }
    indices.push_back(gathered.narrow(0, begin + kHeaderRows, rows[rank] - kHeaderRows));
  }
  return at::cat(indices).t();
}

// How the values travel and come back.
struct ValuePassage {
  CompressorPtr compression;
  std::any context;
  Tensor travels;

  explicit ValuePassage(const Tensor& values, const CompressorPtr& compressor)
      : compression(compressor), travels(values) {
    if (!compression) return;
    Compressor::Compressed compressed = compression->compress(values);
    travels = compressed.tensor;
    context = std::move(compressed.context);
  }
  Tensor arrived(const Tensor& tensor) const {
    return compression ? compression->decompress(tensor, context) : tensor;
  }
};

}  // namespace

Handle sparse_allreduce_async(const Tensor& tensor, const ReduceOptions& options) {
  check_sparse(tensor, options);
  const at::NoGradGuard no_grad;
  const Tensor mine = tensor.detach().coalesce();
  const ValuePassage passage(mine.values(), options.compression);
  // [header and entries, sparse dimensions] and [entries, dense dimensions...]
  const Tensor indices = at::cat({header_of(mine, options), mine.indices().t()}).contiguous();
  const Tensor values = passage.travels.contiguous();
  const auto member = [&options](const char* part, const Tensor& data) {
    const std::string name = options.name.empty() ? "" : options.name + "." + part;
    const TensorView view = view_of(data, "sparse allreduce \"" + options.name + "\"");
    return NamedTensor{name, view, view};
  };
  const std::vector<WorkPtr> works =
      engine_of(options.engine)
          .grouped_allgather_async(options.name,
                                   {member("indices", indices), member("values", values)},
                                   options.process_set);
  const auto finish = [works, passage, sizes = mine.sizes().vec(), options] {
    const at::NoGradGuard guard;
    const Tensor all_indices =
        checked_indices(tensor_of(works[0]->result()), works[0]->first_extents(), options.name);
    const auto ranks = static_cast<double>(works[0]->first_extents().size());
    const double factor = options.prescale_factor * options.postscale_factor /
                          (options.op == ReduceOp::kAverage ? ranks : 1.0);
    const Tensor all_values = passage.arrived(tensor_of(works[1]->result())) * factor;
    return at::sparse_coo_tensor(all_indices, all_values, sizes).coalesce();
  };
  return Handle(works, finish, tensor.device());
}

}  // namespace khorus::torch
