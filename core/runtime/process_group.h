// ProcessGroup: what one rank needs to run the operations of one process set: a communicator, the
// lane that queues them, the runner that packs and unpacks. And the directory of all of them.
//
// Sets are independent of each other: each has its own executor, so operations of different sets
// are under way at the same time.
//
// Thread rule: connect() once, by a thread of the user; the rest from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/runtime/collective_runner.h"
#include "core/runtime/data_plane.h"
#include "core/runtime/device_group.h"
#include "core/runtime/device_lane.h"
#include "core/runtime/lane.h"
#include "khorus/types.h"

namespace khorus::runtime {

class ProcessGroup {
 public:
  using Clock = std::chrono::steady_clock;

  // `ranks`: global, ascending; one of them is this rank.
  ProcessGroup(ProcessSetId id, std::vector<int> ranks, std::shared_ptr<DriverSeat> seat)
      : id_(id), ranks_(std::move(ranks)), lane_(std::make_shared<Lane>(std::move(seat))) {}

  ProcessSetId id() const noexcept { return id_; }
  const std::vector<int>& ranks() const noexcept { return ranks_; }
  const std::shared_ptr<Lane>& lane() const noexcept { return lane_; }

  // Collective over the set: opens and connects the communicator. `runner`: all but the
  // communicator is filled in.
  Status connect(DataPlane::Options plane, CollectiveRunner::Options runner);
  // From now on agreed operations are run: `run` finishes their works.
  void start(Lane::RunJob run) { lane_->start(std::move(run)); }
  // REQUIRES: connect() was ok.
  CollectiveRunner& runner() noexcept { return *runner_; }
  const CollectiveRunner& runner() const noexcept { return *runner_; }
  const khorus_backend& backend() const noexcept { return plane_->backend(); }
  // See DataPlane::allocate.
  std::shared_ptr<void> allocate(size_t bytes) {
    return connected() ? plane_->allocate(bytes) : nullptr;
  }
  bool connected() const noexcept { return connected_.load(std::memory_order_acquire); }
  // For operations on device tensors: beside the communicator above, and made when first needed.
  DeviceGroup& device() noexcept { return device_; }
  const DeviceGroup& device() const noexcept { return device_; }

  // The communicator, now or once it is open, fails with this reason.
  void abort(const std::string& reason);
  // REQUIRES: nothing is pushed any more. Waits for what runs, then disconnects. False when
  // `deadline` came first: then this object must be left alone for ever.
  bool stop(Clock::time_point deadline);

 private:
  const ProcessSetId id_;
  const std::vector<int> ranks_;
  const std::shared_ptr<Lane> lane_;
  std::unique_ptr<CollectiveRunner> runner_;
  std::atomic<bool> connected_{false};
  DeviceGroup device_;

  std::mutex mutex_;  // guards the two below until connect() is over
  std::unique_ptr<DataPlane> plane_;
  std::optional<std::string> abort_reason_;
};

using ProcessGroupPtr = std::shared_ptr<ProcessGroup>;

// The groups of this rank by id. After abort(), groups that are added are aborted too.
class ProcessGroups {
 public:
  using Clock = ProcessGroup::Clock;

  // That of the engine's coordinator.
  DriverSeat& seat() noexcept { return *seat_; }
  // Of all groups.
  DeviceLane& device_lane() noexcept { return device_lane_; }

  ProcessGroupPtr add(ProcessSetId id, std::vector<int> ranks);
  // Null: this rank has no group of this id.
  ProcessGroupPtr find(ProcessSetId id) const;
  // Takes it out; the caller stops it. Null: as find().
  ProcessGroupPtr take(ProcessSetId id);
  std::vector<ProcessGroupPtr> all() const;

  void abort(const std::string& reason);
  // Fails every lane; see Lane::fail.
  void fail(const Status& status);
  // All of them; false if one must be left alone.
  bool stop(Clock::time_point deadline);

 private:
  const std::shared_ptr<DriverSeat> seat_ = std::make_shared<DriverSeat>();
  DeviceLane device_lane_;
  mutable std::mutex mutex_;
  std::map<ProcessSetId, ProcessGroupPtr> groups_;
  std::optional<std::string> abort_reason_;
};

}  // namespace khorus::runtime
