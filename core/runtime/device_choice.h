// DeviceChoice: which backend carries this rank's device tensors, and which device is the rank's.
//
// Nothing is asked of a driver before the first device tensor is submitted: a process without one
// starts no driver, and its children may.
//
// Thread rule: set() before everything; the rest from any thread.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/runtime/backend_loader.h"
#include "khorus/backend.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::runtime {

class DeviceChoice {
 public:
  void set(const BackendSearch& search);

  // Ok: tensors of this device can be carried; the first one admitted is this rank's device. The
  // message goes on after "... is on cuda:1; ".
  Status admit(const Device& device);
  // REQUIRES: admit() was ok on this rank, or another rank's tensors are to be met.
  const khorus_backend* backend() const noexcept { return backend_; }
  // This rank's device; where it has shown no tensor yet (it has joined), that of its local rank.
  Device device(int local_rank) const;

 private:
  const khorus_backend* backend_ = nullptr;  // null: there is none
  std::string missing_;                      // why
  mutable std::mutex mutex_;                 // of what follows
  std::optional<Status> probed_;
  std::optional<Device> device_;
};

}  // namespace khorus::runtime
