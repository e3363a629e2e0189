// EngineImpl: khorus::Engine, put together from its parts.
//
// create() meets the other ranks, tells them who this one is, agrees on a backend and connects it.
// After that the methods only check, make Works and hand them to the coordinator thread; the lane
// runs what was agreed. shutdown() undoes it in the opposite order.
//
// Thread rule: as engine.h says. What the threads share lives in `Core`, which is left alone for
// ever in a forked child and when a backend does not return.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/runtime/engine_core.h"
#include "core/runtime/operation_check.h"
#include "khorus/engine.h"

namespace khorus::runtime {

class EngineImpl final : public Engine {
 public:
  static Result<std::unique_ptr<Engine>> create(const EngineOptions& options);
  explicit EngineImpl(std::unique_ptr<EngineCore> core);
  ~EngineImpl() override;

  void shutdown() override;
  const Place& place() const noexcept override { return place_; }
  Status health() const override;
  const std::string& backend_name() const noexcept override { return backend_name_; }
  EngineStats stats() const override;

  std::shared_ptr<void> allocate(size_t bytes, ProcessSetId process_set) override;
  std::shared_ptr<void> allocate_on_device(size_t bytes, ProcessSetId process_set) override;
  WorkPtr allreduce_async(const std::string& name, const TensorView& input,
                          const TensorView& output, const AllreduceOptions& options) override;
  std::vector<WorkPtr> grouped_allreduce_async(const std::string& group,
                                               const std::vector<NamedTensor>& members,
                                               const AllreduceOptions& options) override;
  WorkPtr allgather_async(const std::string& name, const TensorView& input,
                          ProcessSetId process_set) override;
  std::vector<WorkPtr> grouped_allgather_async(const std::string& group,
                                               const std::vector<NamedTensor>& members,
                                               ProcessSetId process_set) override;
  WorkPtr broadcast_async(const std::string& name, const TensorView& input,
                          const TensorView& output, int root_rank,
                          ProcessSetId process_set) override;
  std::vector<WorkPtr> grouped_broadcast_async(const std::string& group,
                                               const std::vector<NamedTensor>& members,
                                               int root_rank, ProcessSetId process_set) override;
  WorkPtr alltoall_async(const std::string& name, const TensorView& input,
                         const std::vector<int64_t>& splits, ProcessSetId process_set) override;
  std::vector<WorkPtr> grouped_alltoall_async(const std::string& group,
                                              const std::vector<NamedTensor>& members,
                                              const std::vector<std::vector<int64_t>>& splits,
                                              ProcessSetId process_set) override;
  WorkPtr reducescatter_async(const std::string& name, const TensorView& input,
                              const AllreduceOptions& options) override;
  std::vector<WorkPtr> grouped_reducescatter_async(const std::string& group,
                                                   const std::vector<NamedTensor>& members,
                                                   const AllreduceOptions& options) override;
  WorkPtr send_async(const TensorView& input, int peer, int tag, ProcessSetId process_set) override;
  WorkPtr recv_async(const TensorView& output, int peer, int tag,
                     ProcessSetId process_set) override;
  WorkPtr join_async() override;
  Result<ProcessSetId> add_process_set(const std::vector<int>& ranks) override;
  Status remove_process_set(ProcessSetId id) override;
  Result<std::vector<int>> process_set_ranks(ProcessSetId id) const override;
  WorkPtr barrier_async(const std::string& name, ProcessSetId process_set) override;

  Status start_timeline(const std::string& path, bool mark_cycles) override;
  Status stop_timeline() override;
  std::string metrics_text() const override;
  Status dump_flight_recorder(const std::string& path) const override;

  TransferCost reduction_cost() const { return core_->reduction_cost(); }
  const std::array<std::byte, 32>& object_key() const noexcept { return core_->object_key(); }

 private:
  // What all members of one call have in common.
  struct Call {
    OpKind kind = OpKind::kAllreduce;
    AllreduceOptions reduction;  // allreduce, reducescatter; its process set counts for all
    int root_rank = 0;           // broadcast; send/recv: who sends
    int peer = -1;               // send/recv: who receives
    int tag = 0;
    std::vector<std::vector<int64_t>> splits;  // alltoall: by member, or none
    bool grouped = false;
    std::string group;
  };

  std::vector<WorkPtr> submit(Call call, std::vector<NamedTensor> members);
  WorkPtr submit_one(Call call, NamedTensor tensor);
  Status check(const Call& call, const std::vector<NamedTensor>& members) const;
  Status check_member(const Call& call, const NamedTensor& member,
                      const std::vector<int64_t>& splits) const;
  // Whether the backend of its device can run it.
  Status check_backend(const CheckedCall& call, const wire::Request& request) const;
  WorkPtr submit_transfer(Call call, const TensorView& tensor);
  wire::Request request_of(const Call& call, const NamedTensor& member) const;
  // Ok, or Unavailable in a forked child.
  Status check_process() const;

  const pid_t pid_;
  const Place place_;
  const std::string backend_name_;
  std::unique_ptr<EngineCore> core_;
};

}  // namespace khorus::runtime
