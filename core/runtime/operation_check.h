// Checks of one rank's own arguments, before anything is sent.
//
// Pure functions. Each error names the operation, the value and what to do instead.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/runtime/device_choice.h"
#include "khorus/engine.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::runtime {

// Names that begin so belong to Khorus itself.
inline constexpr const char* kInternalPrefix = "khorus.internal/";

struct CheckedCall {
  OpKind kind = OpKind::kAllreduce;
  std::string name;
  int rank = 0;
  ProcessSetId process_set = kGlobalProcessSet;
  std::shared_ptr<const std::vector<int>> ranks;  // of the process set; null: there is none
};

Status check_call(const CheckedCall& call);
Status check_tensor(const CheckedCall& call, const char* role, const TensorView& view);
// Not pure: the first device tensor of a rank says which device it uses.
Status check_device(const CheckedCall& call, const char* role, const TensorView& view,
                    DeviceChoice& choice);
// Same dtype and shape, one memory or two that do not overlap.
Status check_input_and_output(const CheckedCall& call, const TensorView& input,
                              const TensorView& output);
Status check_reduction(const CheckedCall& call, DataType dtype, const AllreduceOptions& options);
Status check_root(const CheckedCall& call, int root_rank);
// Of an alltoall: one number per rank of the set, that add up to the first extent.
Status check_splits(const CheckedCall& call, const Shape& shape,
                    const std::vector<int64_t>& splits);
// Of a send/recv: another rank of the set.
Status check_peer(const CheckedCall& call, int peer, int tag);
// Of a new process set, in a world of `size` ranks.
Status check_set_ranks(const std::vector<int>& ranks, int size);
// Of a group: two members of one name, or outputs that overlap.
Status check_members(OpKind kind, std::span<const NamedTensor> members, bool with_output);

}  // namespace khorus::runtime
