// FusionPlanner: which ready tensors travel together. A pure function.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/wire/message.h"

namespace khorus::protocol {

// Most tensors of a fused operation: what names them stays within a frame.
inline constexpr size_t kMaxFusedTensors = 4096;

// Splits `ready` (in order) into fused operations: indices into `ready`, in order. Allreduces whose
// attributes but name, shape and group agree are fused while their bytes stay within the threshold
// and they are at most kMaxFusedTensors; so are broadcasts. A tensor over the threshold, and every
// other operation, stands alone. Threshold 0: nothing is fused.
std::vector<std::vector<size_t>> plan_fusion(std::span<const wire::ResponseTensor> ready,
                                             int64_t threshold_bytes);

// Bytes of one rank's part of a tensor; of an allgather the sum over ranks.
int64_t tensor_bytes(const wire::ResponseTensor& tensor);

// Whether two tensors may be in one operation.
bool fusable(const wire::Request& a, const wire::Request& b);

}  // namespace khorus::protocol
