// Device tensors of an EngineCore, and what its two data planes have in common; see engine_core.h.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <utility>

#include "core/protocol/tensor_key.h"
#include "core/runtime/backend_call.h"
#include "core/runtime/engine_core.h"

namespace khorus::runtime {
namespace {

// Of a rank that cannot be in a communicator.
constexpr size_t kLongestProblem = 512;

std::string describe(const Job& job) {
  const wire::Request& first = job.response.tensors.front().request;
  std::string text = std::string(to_string(first.kind)) + " \"" + first.name + "\"";
  if (job.works.size() > 1) text += " and " + std::to_string(job.works.size() - 1) + " more";
  return text;
}

}  // namespace

// ---- both ----

DataPlane::Options EngineCore::plane_options(const ProcessGroup& group) const {
  const std::vector<int>& ranks = group.ranks();
  DataPlane::Options plane;
  plane.rank = group_rank(ranks, options_.place.rank);
  plane.ranks = ranks;
  for (const int r : ranks) plane.hosts.push_back(hellos_[static_cast<size_t>(r)].host);
  char id[64];
  std::snprintf(id, sizeof id, "%016" PRIx64 ".%" PRIu64 ".%d", hellos_.front().nonce, epoch_,
                group.id());
  plane.id = id;
  plane.epoch = epoch_;
  plane.network_interface = options_.config.network_interface;
  plane.timeout_ms = static_cast<uint32_t>(milliseconds_of(options_.config.gloo_timeout_s).count());
  plane.logger = &logger_;
  return plane;
}

bool EngineCore::conclude(const Job& job, const Status& status, const std::string& backend) {
  observer_.finished(job, status);
  if (!status.ok()) {
    coordinator_->data_plane_failed(
        Status(status.code(), describe(job) + " on " + backend + ": " + status.message(),
               status.lost_rank()));
    return false;
  }
  end_job(job, Status());
  coordinator_->execution_finished();
  return true;
}

bool EngineCore::supports(const wire::Request& request) const {
  if (!protocol::runs_on_data_plane(request.kind)) return true;
  OpKind kind = request.kind;
  ReduceOp op = request.op == ReduceOp::kAverage ? ReduceOp::kSum : request.op;
  // On the CPU it is made of messages between two ranks.
  if (op == ReduceOp::kAdasum && request.device == DeviceKind::kCpu) {
    kind = OpKind::kSendRecv;
    op = ReduceOp::kSum;
  }
  const khorus_backend* const backend =
      request.device == DeviceKind::kCpu ? backend_ : device_choice_.backend();
  return backend->supports(static_cast<uint8_t>(kind), static_cast<uint8_t>(request.dtype),
                           static_cast<uint8_t>(op), static_cast<uint8_t>(request.device)) != 0;
}

// ---- of a device ----

Status EngineCore::open_device(ProcessGroup& group) {
  const Result<Device> device = device_choice_.claim(options_.place.local_rank);
  if (!device.ok()) return device.status();
  DataPlane::Options plane = plane_options(group);
  plane.backend = device_choice_.backend();
  plane.device = device->index;
  plane.id += ".device";
  plane.exchange = device_exchange(group);
  return group.device().open(std::move(plane));
}

Status EngineCore::connect_device(ProcessGroup& group) {
  const Result<Device> device = device_choice_.claim(options_.place.local_rank);
  if (!device.ok()) return device.status();
  DeviceRunner::Options running;
  running.rank = group_rank(group.ranks(), options_.place.rank);
  running.ranks = group.ranks();
  running.epoch = epoch_;
  running.device = *device;
  running.exchange = device_exchange(group);
  running.timeline = &timeline();
  const std::string name = device_choice_.backend()->name;
  return group.device().connect(
      std::move(running),
      [this, &group, name](Job& job, const Status& status) {
        DeviceRunner& runner = group.device().runner();
        if (status.ok()) runner.note_time_on_device(job);
        runner.note_end(job);  // NCCL_ALLREDUCE
        runner.note_end(job);  // ALLREDUCE
        conclude(job, status, name);
      },
      [](const Job& job, const Status& status) { end_job(job, status); });
}

DataPlane::Exchange EngineCore::device_exchange(ProcessGroup& group) {
  // The group outlives both planes: it stops them.
  return [this, &group](const std::string& tag, std::span<const std::byte> bytes) {
    auto gathered = exchange(group, tag, bytes,
                             Clock::now() + milliseconds_of(options_.config.start_timeout_s));
    // Not to be agreed any more: the set was removed, for all its ranks between the same exchanges.
    if (gathered.status().code() == StatusCode::kInvalidArgument) {
      group.device().note_removed();
    }
    return gathered;
  };
}

Status EngineCore::meet_on_device(ProcessGroup& group) {
  const std::string problem = open_device(group).message().substr(0, kLongestProblem);
  const auto problems = device_exchange(group)("device", std::as_bytes(std::span(problem)));
  if (!problems.ok()) return problems.status();
  const auto refused = std::find_if(problems->begin(), problems->end(),
                                    [](const wire::Bytes& bytes) { return !bytes.empty(); });
  if (refused == problems->end()) return connect_device(group);
  const int rank = group.ranks()[static_cast<size_t>(refused - problems->begin())];
  const Hello& hello = hellos_[static_cast<size_t>(rank)];
  const std::string text(reinterpret_cast<const char*>(refused->data()), refused->size());
  group.device().refuse(
      Status(StatusCode::kUnavailable,
             "process set " + std::to_string(group.id()) +
                 " has no communicator on GPUs, because all its ranks have to be in it and rank " +
                 std::to_string(rank) + " (" + hello.host + ", pid " + std::to_string(hello.pid) +
                 ") cannot: " + text +
                 "; give it a GPU, or use a process set (add_process_set) of ranks that have one"));
  return Status();
}

bool EngineCore::end_alone(const Job& job, const Status& why) {
  const Status status(why.code(), describe(job) + ": " + why.message());
  observer_.finished(job, status);
  end_job(job, status);
  coordinator_->execution_finished();
  return true;
}

bool EngineCore::launch(ProcessGroup& group, Job& job) {
  DeviceGroup& device = group.device();
  if (!device.connected() && device.refusal().ok()) {
    const Status met = meet_on_device(group);
    // Both are decided for all alike: none of them has connected.
    if (met.code() == StatusCode::kShutdown || device.is_removed()) device.refuse(met);
    if (!met.ok() && device.refusal().ok()) {
      coordinator_->data_plane_failed(Status(met.code(),
                                             "the communicator on the GPUs does not connect for " +
                                                 describe(job) + ": " + met.message(),
                                             met.lost_rank()));
      return false;
    }
  }
  if (job.works.empty()) {  // there was nothing else to do here
    coordinator_->execution_finished();
    return true;
  }
  observer_.started(job);
  if (!device.refusal().ok()) return end_alone(job, device.refusal());
  const Status launched = device.launch(job);
  if (launched.ok()) return true;
  if (!device.is_removed() || launched.code() != StatusCode::kInvalidArgument) {
    return conclude(job, launched, device_choice_.backend()->name);
  }
  device.runner().note_end(job);  // NCCL_ALLTOALL
  device.runner().note_end(job);  // ALLTOALL
  return end_alone(job, launched);
}

}  // namespace khorus::runtime
