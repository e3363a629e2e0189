// Device tensors of an EngineCore, and what its two data planes have in common; see engine_core.h.
#include <cinttypes>
#include <cstdio>
#include <utility>

#include "core/protocol/tensor_key.h"
#include "core/runtime/backend_call.h"
#include "core/runtime/engine_core.h"

namespace khorus::runtime {
namespace {

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

Status EngineCore::connect_device(ProcessGroup& group) {
  DataPlane::Options plane = plane_options(group);
  const Device device = device_choice_.device(options_.place.local_rank);
  plane.backend = device_choice_.backend();
  if (plane.backend == nullptr) {
    return Status(StatusCode::kUnavailable, device_choice_.admit(device).message());
  }
  plane.device = device.index;
  plane.id += ".device";
  // The group outlives both planes: it stops them.
  plane.exchange = [this, &group](const std::string& tag, std::span<const std::byte> bytes) {
    return exchange(group, tag, bytes,
                    Clock::now() + milliseconds_of(options_.config.start_timeout_s));
  };
  DeviceRunner::Options running;
  running.rank = plane.rank;
  running.ranks = group.ranks();
  running.epoch = epoch_;
  running.device = device;
  running.exchange = plane.exchange;
  running.timeline = &timeline();
  const std::string name = plane.backend->name;
  return group.device().connect(
      std::move(plane), std::move(running),
      [this, &group, name](Job& job, const Status& status) {
        DeviceRunner& runner = group.device().runner();
        if (status.ok()) runner.note_time_on_device(job);
        runner.note_end(job);  // NCCL_ALLREDUCE
        runner.note_end(job);  // ALLREDUCE
        conclude(job, status, name);
      },
      [](const Job& job, const Status& status) { end_job(job, status); });
}

bool EngineCore::launch(ProcessGroup& group, Job& job) {
  const std::string name = device_choice_.backend() == nullptr
                               ? "a device"
                               : std::string(device_choice_.backend()->name);
  if (!group.device().connected()) {
    if (job.response.tensors.front().request.kind == OpKind::kSendRecv) {
      // The others of the set do not know of it, and would have to take part in the meeting.
      end_job(job, Status(StatusCode::kInvalidArgument,
                          describe(job) +
                              ": the first operation of a process set on GPU tensors must be one "
                              "that all its ranks take part in; broadcast or reduce one first"));
      coordinator_->execution_finished();
      return true;
    }
    const Status connected = connect_device(group);
    if (!connected.ok()) {
      coordinator_->data_plane_failed(Status(connected.code(),
                                             "the backend " + name + " does not connect for " +
                                                 describe(job) + ": " + connected.message(),
                                             connected.lost_rank()));
      return false;
    }
  }
  observer_.started(job);
  const Status launched = group.device().launch(job);
  return launched.ok() || conclude(job, launched, name);
}

}  // namespace khorus::runtime
