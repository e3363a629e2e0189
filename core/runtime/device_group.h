// DeviceGroup: what one rank needs to run operations of one process set on its GPU: a communicator
// of the device backend, the runner that puts operations there and the thread that waits for them.
//
// Empty until the first operation on a device tensor of the set: a job that has none opens no
// communicator, starts no thread and does not touch the driver. Then all ranks of the set meet,
// also those that have no part in that operation; if one of them cannot, nothing runs here, and
// what comes ends with the reason.
//
// Thread rule: what concerns the meeting, exchanges and launch() by the device lane's thread; the
// rest from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/runtime/data_plane.h"
#include "core/runtime/device_completion.h"
#include "core/runtime/device_runner.h"

namespace khorus::runtime {

class DeviceGroup {
 public:
  using Clock = std::chrono::steady_clock;
  using Over = std::function<void(Job&, const Status&)>;
  using Fail = std::function<void(const Job&, const Status&)>;

  bool connected() const noexcept { return connected_.load(std::memory_order_acquire); }
  // This rank's own part of a communicator, once.
  Status open(DataPlane::Options plane);
  // Collective over the set, after open() was ok on all its ranks. `runner`: all but the plane is
  // filled in. The others: see DeviceCompletion::Hooks.
  Status connect(DeviceRunner::Options runner, Over over, Fail fail);
  // The ranks of the set have agreed on why there is no communicator; for good.
  void refuse(const Status& why) { refusal_ = why; }
  // The set was removed before its ranks could exchange something.
  void note_removed() { is_removed_ = true; }
  bool is_removed() const noexcept { return is_removed_; }
  // Ok: there is one, or the ranks have not met yet.
  const Status& refusal() const noexcept { return refusal_; }
  // REQUIRES: connected(). Ok: the job is on the device and has been moved from; its works end
  // when it is complete there. Else it is untouched, and, unless it failed because the set is
  // removed, nothing may be launched any more.
  Status launch(Job& job);
  // REQUIRES: connected().
  DeviceRunner& runner() noexcept { return *runner_; }

  // See DataPlane::allocate; null before connect() was ok.
  std::shared_ptr<void> allocate(size_t bytes) {
    return connected() ? plane_->allocate(bytes) : nullptr;
  }

  // The communicator, now or once it is open, fails with this reason.
  void abort(const std::string& reason);
  // See DeviceCompletion.
  void fail(const Status& status);
  bool wait_idle(Clock::time_point deadline);
  // REQUIRES: nothing is launched any more. Waits for what is under way, then disconnects. False
  // when `deadline` came first: then this object must be left alone for ever.
  bool stop(Clock::time_point deadline);

 private:
  Status refusal_;
  bool is_removed_ = false;
  std::unique_ptr<DeviceRunner> runner_;
  std::unique_ptr<DeviceCompletion> completion_;
  std::atomic<bool> connected_{false};  // the two above are there, and stay

  std::mutex mutex_;  // guards the two below until connect() is over
  std::shared_ptr<DataPlane> plane_;
  std::optional<std::string> abort_reason_;
};

}  // namespace khorus::runtime
