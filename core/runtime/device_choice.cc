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

Status DeviceChoice::admit(const Device& device) {
  if (device.kind != DeviceKind::kCuda) {
    return Status(StatusCode::kInvalidArgument, "that is no device Khorus knows");
  }
  if (backend_ == nullptr) return Status(StatusCode::kInvalidArgument, missing_);
  const std::lock_guard lock(mutex_);
  if (!probed_.has_value()) {
    khorus_error error{};
    error.rank = -1;
    const int32_t code = backend_->probe(&error);
    probed_ = code == 0 ? Status() : Status(static_cast<StatusCode>(code), error.message);
  }
  if (!probed_->ok()) {
    return Status(StatusCode::kInvalidArgument,
                  "the backend " + std::string(backend_->name) + ": " + probed_->message());
  }
  if (!device_.has_value()) device_ = device;
  if (*device_ == device) return Status();
  return Status(StatusCode::kInvalidArgument, "this rank's tensors were on " + to_string(*device_) +
                                                  " so far, and a rank uses one device; copy it "
                                                  "there, or start a rank for each device");
}

Device DeviceChoice::device(int local_rank) const {
  const std::lock_guard lock(mutex_);
  return device_.value_or(Device{DeviceKind::kCuda, local_rank});
}

}  // namespace khorus::runtime
