// Allgather, alone and fused; see collective_runner.h.
#include <cstring>
#include <numeric>

#include "core/runtime/collective_runner.h"

namespace khorus::runtime {
namespace {

struct GatherPlan {
  size_t row_bytes = 0;
  size_t rows = 0;
  std::vector<uint64_t> counts;  // elements by rank
};

GatherPlan plan_of(const wire::ResponseTensor& tensor) {
  GatherPlan plan;
  size_t row_elements = 1;
  for (size_t i = 1; i < tensor.request.shape.size(); ++i) {
    row_elements *= static_cast<size_t>(tensor.request.shape[i]);
  }
  plan.row_bytes = row_elements * element_size(tensor.request.dtype);
  for (const int64_t extent : tensor.extents) {
    plan.rows += static_cast<size_t>(extent);
    plan.counts.push_back(static_cast<uint64_t>(extent) * row_elements);
  }
  return plan;
}

}  // namespace

Status CollectiveRunner::run_allgather(const Job& job) {
  std::vector<std::shared_ptr<void>> outputs;
  size_t total_bytes = 0;
  for (size_t i = 0; i < job.works.size(); ++i) {
    const wire::ResponseTensor& tensor = job.response.tensors[i];
    const GatherPlan plan = plan_of(tensor);
    const size_t bytes = plan.rows * plan.row_bytes;
    outputs.push_back(allocate_aligned(bytes));
    if (outputs.back() == nullptr) return out_of_memory("the output of an allgather", bytes);
    total_bytes += bytes;
    TensorView result;
    result.data = outputs.back().get();
    result.dtype = tensor.request.dtype;
    result.shape = tensor.request.shape;
    result.shape.front() = static_cast<int64_t>(plan.rows);
    result.owner = outputs.back();
    job.works[i]->set_gathered(std::move(result), tensor.extents);
  }
  if (total_bytes == 0) return Status();
  bytes_reduced_.fetch_add(total_bytes, std::memory_order_relaxed);
  if (job.works.size() > 1) return run_fused_allgather(job, outputs);

  const GatherPlan plan = plan_of(job.response.tensors.front());
  khorus_op op = operation_of(job);
  op.input = job.works.front()->operation().input.data;
  op.output = outputs.front().get();
  op.count = plan.counts[static_cast<size_t>(options_.rank)];
  op.counts = plan.counts.data();
  return run_on_backend(job, op);
}

// Every rank's parts of all tensors lie together in the gathered buffer.
Status CollectiveRunner::run_fused_allgather(const Job& job,
                                             const std::vector<std::shared_ptr<void>>& outputs) {
  const size_t element_bytes = element_size(job.response.tensors.front().request.dtype);
  const auto ranks = static_cast<size_t>(options_.size);
  const auto self = static_cast<size_t>(options_.rank);
  std::vector<GatherPlan> plans;
  std::vector<uint64_t> counts(ranks, 0);
  for (const wire::ResponseTensor& tensor : job.response.tensors) {
    plans.push_back(plan_of(tensor));
    for (size_t r = 0; r < ranks; ++r) counts[r] += plans.back().counts[r];
  }
  const size_t total_bytes =
      std::accumulate(counts.begin(), counts.end(), size_t{0}) * element_bytes;
  const size_t own_bytes = counts[self] * element_bytes;
  auto* const packed = static_cast<std::byte*>(buffer_.reserve(own_bytes));
  auto* const gathered = static_cast<std::byte*>(gather_buffer_.reserve(total_bytes));
  if (gathered == nullptr) return out_of_memory("a fusion buffer", total_bytes);
  if (packed == nullptr && own_bytes > 0) return out_of_memory("a fusion buffer", own_bytes);

  note_begin(job, "MEMCPY_IN_FUSION_BUFFER");
  std::byte* at = packed;
  for (size_t t = 0; t < plans.size(); ++t) {
    const size_t bytes = plans[t].counts[self] * element_bytes;
    copy_bytes(at, job.works[t]->operation().input.data, bytes);
    at += bytes;
  }
  note_end(job);
  khorus_op op = operation_of(job);
  op.input = packed;
  op.output = gathered;
  op.count = counts[self];
  op.counts = counts.data();
  Status status = run_on_backend(job, op);
  if (!status.ok()) return status;

  note_begin(job, "MEMCPY_OUT_FUSION_BUFFER");
  std::vector<size_t> filled(plans.size(), 0);
  const std::byte* from = gathered;
  for (size_t r = 0; r < ranks; ++r) {
    for (size_t t = 0; t < plans.size(); ++t) {
      const size_t bytes = plans[t].counts[r] * element_bytes;
      copy_bytes(static_cast<std::byte*>(outputs[t].get()) + filled[t], from, bytes);
      filled[t] += bytes;
      from += bytes;
    }
  }
  note_end(job);
  buffer_.trim();
  gather_buffer_.trim();
  return status;
}

}  // namespace khorus::runtime
