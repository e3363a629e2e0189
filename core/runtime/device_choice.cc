// See device_choice.h.
#include "core/runtime/device_choice.h"

namespace khorus::runtime {
namespace {

bool carries_device_tensors(const khorus_backend& backend) {
  return backend.order != nullptr && backend.finish != nullptr &&
         backend.supports(static_cast<uint8_t>(OpKind::kBroadcast),
                          static_cast<uint8_t>(DataType::kUint8), 0,
                          static_cast<uint8_t>(DeviceKind::kCuda)) != 0;
}

}  // namespace

void DeviceChoice::set(const BackendSearch& search) {
  for (const FoundBackend& found : search.backends) {
    if (found.backend == nullptr) {
      missing_ += "; " + found.problem.message();
    } else if (carries_device_tensors(*found.backend)) {
      backend_ = found.backend;
      return;
    }
  }
  missing_ = "no backend here carries it: libkhorus_backend_nccl.so is missing in " +
             (search.directories.empty() ? "every folder" : search.directories.front()) + missing_ +
             "; install a Khorus built with it, or copy the tensor to the CPU";
}

Status DeviceChoice::probe() {
  if (backend_ == nullptr) return Status(StatusCode::kInvalidArgument, missing_);
  if (!probed_.has_value()) {
    khorus_error error{};
    error.rank = -1;
    const int32_t code = backend_->probe(&error);
    probed_ = code == 0
                  ? Status()
                  : Status(StatusCode::kInvalidArgument,
                           "the backend " + std::string(backend_->name) + ": " + error.message);
  }
  return *probed_;
}

Status DeviceChoice::admit(const Device& device) {
  if (device.kind != DeviceKind::kCuda) {
    return Status(StatusCode::kInvalidArgument, "that is no device Khorus knows");
  }
  const std::lock_guard lock(mutex_);
  if (Status status = probe(); !status.ok()) return status;
  if (!device_.has_value()) device_ = device;
  if (*device_ == device) return Status();
  const std::string why =
      is_claimed_ ? "this rank uses " + to_string(*device_) +
                        ", that of its local rank, since other ranks of a process set needed one "
                        "before it had a tensor; copy it there, or submit a first one here before"
                  : "this rank's tensors were on " + to_string(*device_) +
                        " so far, and a rank uses one device; copy it there, or start a rank for "
                        "each device";
  return Status(StatusCode::kInvalidArgument, why);
}

Result<Device> DeviceChoice::claim(int local_rank) {
  const std::lock_guard lock(mutex_);
  if (Status status = probe(); !status.ok()) return status;
  if (!device_.has_value()) {
    // Fewer where a launcher shows each rank its own only.
    const int32_t count = backend_->devices == nullptr ? 0 : backend_->devices();
    device_ = Device{DeviceKind::kCuda, count > 0 ? local_rank % count : local_rank};
    is_claimed_ = true;
  }
  return *device_;
}

}  // namespace khorus::runtime
