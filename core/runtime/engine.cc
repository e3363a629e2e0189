// See engine.h.
#include "core/runtime/engine.h"

#include <unistd.h>

#include <cstring>
#include <utility>

#include "core/runtime/device_mark.h"
#include "core/runtime/device_runner.h"
#include "core/runtime/fusion_buffer.h"
#include "core/runtime/operation_check.h"
#include "khorus/object_key.h"

namespace khorus {

Result<std::unique_ptr<Engine>> Engine::create(const EngineOptions& options) {
  return runtime::EngineImpl::create(options);
}

}  // namespace khorus

namespace khorus::runtime {
namespace {

// A name for a group that has none: the members' names, as a number.
std::string name_of_group(const std::vector<NamedTensor>& members) {
  uint64_t hash = 14695981039346656037U;  // FNV-1a
  for (const NamedTensor& member : members) {
    for (const char c : member.name + '\n') {
      hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
    }
  }
  return "group." + std::to_string(members.size()) + "." + std::to_string(hash);
}

bool is_reduction(OpKind kind) {
  return kind == OpKind::kAllreduce || kind == OpKind::kReducescatter;
}

bool has_output(OpKind kind) {  // of the caller's
  return kind == OpKind::kAllreduce || kind == OpKind::kBroadcast;
}

Status check_tensors(const CheckedCall& call, const NamedTensor& member, DeviceChoice& choice) {
  Status status = check_tensor(call, "input", member.input);
  if (status.ok() && has_output(call.kind)) {
    status = check_tensor(call, "output", member.output);
    if (status.ok()) status = check_input_and_output(call, member.input, member.output);
    if (status.ok()) status = check_device(call, "output", member.output, choice);
  }
  return status.ok() ? check_device(call, "input", member.input, choice) : status;
}

// What two unnamed operations must have in common to be counted together.
std::string signature_of(const wire::Request& request) {
  std::string signature(to_string(request.kind));
  if (request.process_set != kGlobalProcessSet) {
    signature += ".set" + std::to_string(request.process_set);
  }
  if (request.kind == OpKind::kBarrier) return signature;
  Shape shape = request.shape;
  if (request.kind == OpKind::kAllgather || request.kind == OpKind::kAlltoall) shape.front() = 0;
  signature += "." + std::string(to_string(request.dtype)) + to_string(shape);
  if (is_reduction(request.kind)) signature += "." + std::string(to_string(request.op));
  if (request.kind == OpKind::kBroadcast) signature += "." + std::to_string(request.root_rank);
  return signature;
}

}  // namespace

Result<std::unique_ptr<Engine>> EngineImpl::create(const EngineOptions& options) {
  auto core = std::make_unique<EngineCore>(options);
  const Status status = core->start();
  if (!status.ok()) {
    if (!core->stop()) static_cast<void>(core.release());
    return status;
  }
  return std::unique_ptr<Engine>(std::make_unique<EngineImpl>(std::move(core)));
}

EngineImpl::EngineImpl(std::unique_ptr<EngineCore> core)
    : pid_(getpid()),
      place_(core->place()),
      backend_name_(core->backend_name()),
      core_(std::move(core)) {}

EngineImpl::~EngineImpl() {
  // In a forked child the threads are not there and the locks are as they happened to be.
  const bool can_be_destroyed = getpid() == pid_ && core_->stop();
  if (!can_be_destroyed) static_cast<void>(core_.release());
}

void EngineImpl::shutdown() {
  if (getpid() == pid_) static_cast<void>(core_->stop());
}

Status EngineImpl::check_process() const {
  const pid_t here = getpid();
  if (here == pid_) return Status();
  return Status(StatusCode::kUnavailable, "called in a forked child (pid " + std::to_string(here) +
                                              "); the engine and its threads are in process " +
                                              std::to_string(pid_) + ", call it there");
}

Status EngineImpl::health() const {
  Status status = check_process();
  return status.ok() ? core_->health() : status;
}

EngineStats EngineImpl::stats() const {
  return check_process().ok() ? core_->stats() : EngineStats();
}

Status EngineImpl::start_timeline(const std::string& path, bool mark_cycles) {
  Status status = check_process();
  return status.ok() ? core_->timeline().start(path, mark_cycles) : status;
}

Status EngineImpl::stop_timeline() {
  Status status = check_process();
  return status.ok() ? core_->timeline().stop() : status;
}

std::string EngineImpl::metrics_text() const {
  return check_process().ok() ? core_->metrics().to_prometheus() : "";
}

Status EngineImpl::dump_flight_recorder(const std::string& path) const {
  Status status = check_process();
  return status.ok() ? core_->dump_flight_recorder(path) : status;
}

std::shared_ptr<void> EngineImpl::allocate(size_t bytes, ProcessSetId process_set) {
  const ProcessGroupPtr group = check_process().ok() ? core_->group(process_set) : nullptr;
  std::shared_ptr<void> memory = group == nullptr ? nullptr : group->allocate(bytes);
  if (memory != nullptr) return memory;
  memory = allocate_aligned(bytes);
  if (memory != nullptr) std::memset(memory.get(), 0, bytes);
  return memory;
}

std::shared_ptr<void> EngineImpl::allocate_on_device(size_t bytes, ProcessSetId process_set) {
  const ProcessGroupPtr group = check_process().ok() ? core_->group(process_set) : nullptr;
  return group == nullptr ? nullptr : group->device().allocate(bytes);
}

// ---- operations: how each of them is submitted is in engine_operations.cc ----

WorkPtr EngineImpl::submit_one(Call call, NamedTensor tensor) {
  std::vector<NamedTensor> members;
  members.push_back(std::move(tensor));
  return std::move(submit(std::move(call), std::move(members)).front());
}

std::vector<WorkPtr> EngineImpl::submit(Call call, std::vector<NamedTensor> members) {
  std::vector<WorkPtr> works;
  works.reserve(members.size());
  const auto refuse = [&](const Status& status) {
    works.clear();
    for (const NamedTensor& member : members) {
      works.push_back(std::make_shared<WorkState>(member.name, status));
    }
    return works;
  };
  if (Status status = check(call, members); !status.ok()) return refuse(status);

  Batch batch;
  batch.submissions.reserve(members.size());
  batch.works.reserve(members.size());
  const ProcessGroupPtr group = core_->group(call.reduction.process_set);
  for (NamedTensor& member : members) {
    wire::Request request = request_of(call, member);
    if (member.name.empty()) member.name = core_->next_unnamed(signature_of(request));
    request.name = member.name;
    batch.submissions.push_back({core_->next_ticket(), std::move(request), {}});
  }
  if (call.grouped) {
    const std::string name = call.group.empty() ? name_of_group(members) : call.group;
    for (protocol::Submission& submission : batch.submissions) {
      submission.request.group = name;
      submission.request.group_size = static_cast<uint32_t>(members.size());
    }
  }
  for (size_t i = 0; i < members.size(); ++i) {
    NamedTensor& member = members[i];
    WorkState::Operation operation{
        member.name, call.kind, std::move(member.input), std::move(member.output), {}};
    if (call.kind == OpKind::kAlltoall) {
      const auto size = group->ranks().size();
      operation.splits = call.splits.empty()
                             ? std::vector<int64_t>(
                                   size, operation.input.shape.front() / static_cast<int64_t>(size))
                             : call.splits[i];
    }
    const bool on_device = operation.input.device.kind != DeviceKind::kCpu;
    auto work = std::make_shared<WorkState>(std::move(operation), group->lane());
    if (on_device) DeviceMark::attach(work);
    works.push_back(work);
    batch.works.push_back(std::move(work));
  }
  if (batch.works.empty()) return works;
  if (Status status = core_->submit(batch); !status.ok()) return refuse(status);
  return works;
}

Status EngineImpl::check(const Call& call, const std::vector<NamedTensor>& members) const {
  if (Status status = check_process(); !status.ok()) return status;
  if (call.group.size() > wire::Limits::kMaxNameBytes || members.size() > wire::Limits::kMaxItems) {
    return Status(StatusCode::kInvalidArgument,
                  "grouped " + std::string(to_string(call.kind)) + ": a name of " +
                      std::to_string(call.group.size()) + " bytes and " +
                      std::to_string(members.size()) + " members; at most " +
                      std::to_string(wire::Limits::kMaxNameBytes) + " bytes and " +
                      std::to_string(wire::Limits::kMaxItems) + " members are possible");
  }
  if (!call.splits.empty() && call.splits.size() != members.size()) {
    return Status(StatusCode::kInvalidArgument,
                  "grouped alltoall: " + std::to_string(call.splits.size()) +
                      " lists of splits for " + std::to_string(members.size()) +
                      " members; give one for each, or none");
  }
  for (size_t i = 0; i < members.size(); ++i) {
    const std::vector<int64_t> none;
    const std::vector<int64_t>& splits = call.splits.empty() ? none : call.splits[i];
    if (Status status = check_member(call, members[i], splits); !status.ok()) return status;
  }
  if (!call.grouped) return Status();
  return check_members(call.kind, members, has_output(call.kind));
}

Status EngineImpl::check_member(const Call& call, const NamedTensor& member,
                                const std::vector<int64_t>& splits) const {
  const ProcessSetId set = call.reduction.process_set;
  const CheckedCall checked{call.kind, member.name, place_.rank, set, core_->ranks_of(set)};
  if (Status status = check_call(checked); !status.ok()) return status;
  if (call.kind == OpKind::kBarrier || call.kind == OpKind::kJoin) return Status();
  if (Status status = check_tensors(checked, member, core_->device_choice()); !status.ok()) {
    return status;
  }
  if (call.kind == OpKind::kBroadcast) {
    if (Status status = check_root(checked, call.root_rank); !status.ok()) return status;
  }
  if (call.kind == OpKind::kAlltoall) {
    Status status = check_splits(checked, member.input.shape, splits);
    if (!status.ok()) return status;
  }
  if (call.kind == OpKind::kSendRecv) {
    const int other = call.root_rank == place_.rank ? call.peer : call.root_rank;
    if (Status status = check_peer(checked, other, call.tag); !status.ok()) return status;
  }
  if (call.kind == OpKind::kReducescatter && member.input.shape.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  "reducescatter \"" + member.name +
                      "\": a scalar has no rows to scatter; give it the shape [1]");
  }
  if (is_reduction(call.kind)) {
    Status status = check_reduction(checked, member.input.dtype, call.reduction);
    if (!status.ok()) return status;
  }
  return check_backend(checked, request_of(call, member));
}

Status EngineImpl::check_backend(const CheckedCall& call, const wire::Request& request) const {
  const auto refuse = [&](const std::string& why) {
    return Status(StatusCode::kInvalidArgument,
                  std::string(to_string(call.kind)) + " \"" + call.name + "\": " + why);
  };
  std::string backend = backend_name_;
  if (request.device != DeviceKind::kCpu) {
    backend = core_->device_choice().backend()->name;
    const int size = static_cast<int>(call.ranks->size());
    if (const auto objection = objection_on_device(request, size)) return refuse(*objection);
  }
  if (core_->supports(request)) return Status();
  return refuse("the backend " + backend + " cannot run it for " +
                std::string(to_string(request.dtype)) + "; convert it, or choose another " +
                "KHORUS_BACKEND");
}

wire::Request EngineImpl::request_of(const Call& call, const NamedTensor& member) const {
  wire::Request request;
  request.kind = call.kind;
  request.process_set = call.reduction.process_set;
  if (call.kind == OpKind::kBarrier || call.kind == OpKind::kJoin) return request;
  request.dtype = member.input.dtype;
  request.device = member.input.device.kind;
  request.shape = member.input.shape;
  if (is_reduction(call.kind)) {
    request.op = call.reduction.op;
    request.prescale = call.reduction.prescale;
    request.postscale = call.reduction.postscale;
  }
  if (call.kind == OpKind::kBroadcast || call.kind == OpKind::kSendRecv) {
    request.root_rank = call.root_rank;
    request.peer = call.peer;
  }
  if (call.kind == OpKind::kAllgather && request.shape.empty()) request.shape = {1};
  return request;
}

}  // namespace khorus::runtime

namespace khorus {

std::array<std::byte, 32> object_key(const Engine& engine) {
  return dynamic_cast<const runtime::EngineImpl&>(engine).object_key();
}

}  // namespace khorus
