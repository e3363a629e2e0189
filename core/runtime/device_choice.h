// DeviceChoice: which backend carries this rank's device tensors, and which device is the rank's.
//
// Nothing is asked of a driver before the first device tensor of a process set of this rank is
// agreed on or submitted: a process without one starts no driver, and its children may.
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
  // This rank's device, or why it has none. A rank that has shown no tensor yet, and takes part in
  // what others do, takes the one of its local rank among those that the driver shows it, for good.
  Result<Device> claim(int local_rank);
  // Null: there is none. Not, where admit() or claim() was ok.
  const khorus_backend* backend() const noexcept { return backend_; }

 private:
  // Whether there are devices at all. REQUIRES: the lock.
  Status probe();

  const khorus_backend* backend_ = nullptr;  // null: there is none
  std::string missing_;                      // why
  std::mutex mutex_;                         // of what follows
  std::optional<Status> probed_;
  std::optional<Device> device_;
  bool is_claimed_ = false;  // it was not a tensor that chose the device
};

}  // namespace khorus::runtime
