// See fusion_planner.h.
#include "core/protocol/fusion_planner.h"

namespace khorus::protocol {

int64_t tensor_bytes(const wire::ResponseTensor& tensor) {
  const auto element = static_cast<int64_t>(element_size(tensor.request.dtype));
  if (tensor.request.kind != OpKind::kAllgather) {
    return element_count(tensor.request.shape) * element;
  }
  int64_t rows = 0;
  for (int64_t extent : tensor.extents) rows += extent;
  int64_t row = element;
  for (size_t i = 1; i < tensor.request.shape.size(); ++i) row *= tensor.request.shape[i];
  return rows * row;
}

bool fusable(const wire::Request& a, const wire::Request& b) {
  return a.kind == b.kind && (a.kind == OpKind::kAllreduce || a.kind == OpKind::kBroadcast) &&
         a.op != ReduceOp::kAdasum &&  // looks at each tensor as a whole
         a.dtype == b.dtype && a.op == b.op && a.device == b.device &&
         a.process_set == b.process_set && a.root_rank == b.root_rank && a.prescale == b.prescale &&
         a.postscale == b.postscale;
}

std::vector<std::vector<size_t>> plan_fusion(std::span<const wire::ResponseTensor> ready,
                                             int64_t threshold_bytes) {
  struct Bucket {
    size_t index = 0;  // in the plan
    int64_t bytes = 0;
  };
  std::vector<std::vector<size_t>> plan;
  std::vector<Bucket> open;  // the last bucket of every class of fusable tensors
  for (size_t i = 0; i < ready.size(); ++i) {
    const int64_t bytes = tensor_bytes(ready[i]);
    Bucket* bucket = nullptr;
    for (Bucket& candidate : open) {
      if (fusable(ready[plan[candidate.index].front()].request, ready[i].request)) {
        bucket = &candidate;
        break;
      }
    }
    if (bucket != nullptr && bucket->bytes + bytes <= threshold_bytes &&
        plan[bucket->index].size() < kMaxFusedTensors) {
      plan[bucket->index].push_back(i);
      bucket->bytes += bytes;
      continue;
    }
    plan.push_back({i});
    if (!fusable(ready[i].request, ready[i].request)) continue;
    if (bucket == nullptr) bucket = &open.emplace_back();
    *bucket = {plan.size() - 1, bytes};
  }
  return plan;
}

}  // namespace khorus::protocol
