// DeviceMark: where the operation of a Work is on the device, for streams that are to wait for it.
//
// Only works of device tensors have one. Who launches the operation writes it;
// khorus::wait_on_stream (khorus/device.h) reads it.
//
// Thread rule: any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "core/runtime/data_plane.h"
#include "core/runtime/work_state.h"
#include "khorus/status.h"

namespace khorus::runtime {

class DeviceMark {
 public:
  // Gives a work that was not submitted yet its mark.
  static void attach(const WorkStatePtr& work);

  // The operation is on the device, as this one of the plane's.
  void launched(std::shared_ptr<DataPlane> plane, uint64_t sequence);
  // The work is over, whether or not it came to the device.
  void over(const Status& status);
  // Whether it ever came to the device: what it allocated is known from then on.
  bool was_launched() const noexcept { return launched_.load(std::memory_order_acquire); }
  // What is put into `stream` from now on begins after the operation. Blocks until it is launched
  // or over; every operation comes to that.
  Status order(void* stream);
  // Nothing, when `patience` came to its end first.
  std::optional<Status> order_within(void* stream, std::chrono::milliseconds patience);

 private:
  Status order_launched(void* stream, std::unique_lock<std::mutex> lock);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<DataPlane> plane_;
  uint64_t sequence_ = 0;
  std::atomic<bool> launched_{false};
  std::optional<Status> over_;
};

}  // namespace khorus::runtime
