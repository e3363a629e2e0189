// DeviceCompletion: the thread that waits for what one communicator has on the device.
//
// Operations end in the order in which they were launched, so it waits for one after the other. As
// long as anything is under way it is in the backend's `finish`, which also sees failures. Memory
// and works of an operation are held until then. After a failure nothing is released before fail()
// says how it ends for everybody: the control plane may know better why.
//
// The thread is started by the first push().
//
// Thread rule: push() by one thread at a time; the rest from any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "core/runtime/device_runner.h"
#include "core/runtime/lane.h"
#include "khorus/status.h"

namespace khorus::runtime {

class DeviceCompletion {
 public:
  using Clock = std::chrono::steady_clock;
  struct Flight {
    Job job;
    DeviceRunner::Launched launched;
  };
  struct Hooks {
    std::function<Status(uint64_t sequence)> finish;  // blocks
    // Ok: ends the works. Else: tells the engine, which will call fail().
    std::function<void(Job&, const Status&)> over;
    // Ends the works with this.
    std::function<void(const Job&, const Status&)> fail;
  };
  explicit DeviceCompletion(Hooks hooks) : hooks_(std::move(hooks)) {}
  // REQUIRES: stop() was called.
  ~DeviceCompletion();
  DeviceCompletion(const DeviceCompletion&) = delete;
  DeviceCompletion& operator=(const DeviceCompletion&) = delete;

  void push(Flight flight);
  // What is under way ends with `status`, once the device is done with it: the caller has aborted
  // the communicator.
  void fail(const Status& status);
  // Until all is over; false if that is not so by `deadline`.
  bool wait_idle(Clock::time_point deadline);
  // REQUIRES: no push() any more. Waits until all is over, and ends the thread. False: `deadline`
  // came first; then this object must be left alone for ever.
  bool stop(Clock::time_point deadline);

 private:
  void loop();
  // Waits for the end of it; false when that was bad and waits for fail().
  bool conclude(Flight& flight);

  const Hooks hooks_;
  std::thread thread_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<Flight> flights_;  // the first one is the thread's
  bool broken_ = false;         // the device is done with all that is here, badly
  bool stopping_ = false;
  std::optional<Status> failure_;
};

}  // namespace khorus::runtime
