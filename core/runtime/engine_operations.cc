// The operations of EngineImpl: each makes a Call of its arguments; see engine.h.
#include <string>
#include <utility>

#include "core/runtime/engine.h"

namespace khorus::runtime {

WorkPtr EngineImpl::allreduce_async(const std::string& name, const TensorView& input,
                                    const TensorView& output, const AllreduceOptions& options) {
  Call call;
  call.reduction = options;
  return submit_one(std::move(call), {name, input, output});
}

std::vector<WorkPtr> EngineImpl::grouped_allreduce_async(const std::string& group,
                                                         const std::vector<NamedTensor>& members,
                                                         const AllreduceOptions& options) {
  Call call;
  call.reduction = options;
  call.grouped = true;
  call.group = group;
  return submit(std::move(call), members);
}

WorkPtr EngineImpl::allgather_async(const std::string& name, const TensorView& input,
                                    ProcessSetId process_set) {
  Call call;
  call.kind = OpKind::kAllgather;
  call.reduction.process_set = process_set;
  return submit_one(std::move(call), {name, input, {}});
}

std::vector<WorkPtr> EngineImpl::grouped_allgather_async(const std::string& group,
                                                         const std::vector<NamedTensor>& members,
                                                         ProcessSetId process_set) {
  Call call;
  call.kind = OpKind::kAllgather;
  call.reduction.process_set = process_set;
  call.grouped = true;
  call.group = group;
  return submit(std::move(call), members);
}

WorkPtr EngineImpl::broadcast_async(const std::string& name, const TensorView& input,
                                    const TensorView& output, int root_rank,
                                    ProcessSetId process_set) {
  Call call;
  call.kind = OpKind::kBroadcast;
  call.reduction.process_set = process_set;
  call.root_rank = root_rank;
  return submit_one(std::move(call), {name, input, output});
}

std::vector<WorkPtr> EngineImpl::grouped_broadcast_async(const std::string& group,
                                                         const std::vector<NamedTensor>& members,
                                                         int root_rank, ProcessSetId process_set) {
  Call call;
  call.kind = OpKind::kBroadcast;
  call.reduction.process_set = process_set;
  call.root_rank = root_rank;
  call.grouped = true;
  call.group = group;
  return submit(std::move(call), members);
}

WorkPtr EngineImpl::alltoall_async(const std::string& name, const TensorView& input,
                                   const std::vector<int64_t>& splits, ProcessSetId process_set) {
  Call call;
  call.kind = OpKind::kAlltoall;
  call.reduction.process_set = process_set;
  if (!splits.empty()) call.splits = {splits};
  return submit_one(std::move(call), {name, input, {}});
}

std::vector<WorkPtr> EngineImpl::grouped_alltoall_async(
    const std::string& group, const std::vector<NamedTensor>& members,
    const std::vector<std::vector<int64_t>>& splits, ProcessSetId process_set) {
  Call call;
  call.kind = OpKind::kAlltoall;
  call.reduction.process_set = process_set;
  call.splits = splits;
  call.grouped = true;
  call.group = group;
  return submit(std::move(call), members);
}

WorkPtr EngineImpl::reducescatter_async(const std::string& name, const TensorView& input,
                                        const AllreduceOptions& options) {
  Call call;
  call.kind = OpKind::kReducescatter;
  call.reduction = options;
  return submit_one(std::move(call), {name, input, {}});
}

std::vector<WorkPtr> EngineImpl::grouped_reducescatter_async(
    const std::string& group, const std::vector<NamedTensor>& members,
    const AllreduceOptions& options) {
  Call call;
  call.kind = OpKind::kReducescatter;
  call.reduction = options;
  call.grouped = true;
  call.group = group;
  return submit(std::move(call), members);
}

WorkPtr EngineImpl::send_async(const TensorView& input, int peer, int tag,
                               ProcessSetId process_set) {
  Call call;
  call.reduction.process_set = process_set;
  call.root_rank = place_.rank;
  call.peer = peer;
  call.tag = tag;
  return submit_transfer(std::move(call), input);
}

WorkPtr EngineImpl::recv_async(const TensorView& output, int peer, int tag,
                               ProcessSetId process_set) {
  Call call;
  call.reduction.process_set = process_set;
  call.root_rank = peer;
  call.peer = place_.rank;
  call.tag = tag;
  return submit_transfer(std::move(call), output);
}

// The k-th transfer of a direction and tag has the same name on both sides. Names come round again,
// so that agreeing on them costs a number only.
WorkPtr EngineImpl::submit_transfer(Call call, const TensorView& tensor) {
  constexpr uint64_t kUnderWay = 64;
  call.kind = OpKind::kSendRecv;
  const std::string channel = "rank " + std::to_string(call.root_rank) + " to " +
                              std::to_string(call.peer) + ", tag " + std::to_string(call.tag);
  NamedTensor member{channel, tensor, tensor};
  if (const Status status = check(call, {member}); !status.ok()) {
    return std::make_shared<WorkState>(channel, status);
  }
  const std::string counted = channel + " of set " + std::to_string(call.reduction.process_set);
  member.name += " #" + std::to_string(core_->next_number(counted) % kUnderWay);
  return submit_one(std::move(call), std::move(member));
}

WorkPtr EngineImpl::join_async() {
  Call call;
  call.kind = OpKind::kJoin;
  return submit_one(std::move(call), {"join", {}, {}});
}

Result<ProcessSetId> EngineImpl::add_process_set(const std::vector<int>& ranks) {
  if (Status status = check_process(); !status.ok()) return status;
  return core_->add_process_set(ranks);
}

Status EngineImpl::remove_process_set(ProcessSetId id) {
  Status status = check_process();
  return status.ok() ? core_->remove_process_set(id) : status;
}

Result<std::vector<int>> EngineImpl::process_set_ranks(ProcessSetId id) const {
  if (Status status = check_process(); !status.ok()) return status;
  const EngineCore::RanksPtr ranks = core_->ranks_of(id);
  if (ranks != nullptr) return *ranks;
  return Status(StatusCode::kInvalidArgument, "there is no process set " + std::to_string(id));
}

WorkPtr EngineImpl::barrier_async(const std::string& name, ProcessSetId process_set) {
  Call call;
  call.kind = OpKind::kBarrier;
  call.reduction.process_set = process_set;
  return submit_one(std::move(call), {name, {}, {}});
}

}  // namespace khorus::runtime
