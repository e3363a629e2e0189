// DeviceLane: the queue of agreed operations on device tensors of all process sets of an engine.
//
// One thread puts them on the GPU in the order of the decisions, which is the same on every rank:
// so communicators of sets that overlap are made and used in one order everywhere, as NCCL wants
// it. The thread does not wait for what it has launched, only for a communicator's first meeting.
// It is started by the first push().
//
// After a failure nothing more is launched, and what is here waits for fail().
//
// Thread rule: start() before everything; push() by who drives the coordinator; the rest from any
// thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "core/runtime/lane.h"
#include "khorus/status.h"

namespace khorus::runtime {

class ProcessGroup;

// A job of device tensors.
bool is_on_device(const Job& job) noexcept;

class DeviceLane {
 public:
  using Clock = std::chrono::steady_clock;
  using GroupPtr = std::shared_ptr<ProcessGroup>;
  // Puts a job on the device, or ends it. False when the data plane failed: then the lane keeps the
  // job until fail().
  using Launch = std::function<bool(ProcessGroup&, Job&)>;

  ~DeviceLane();

  void start(Launch launch) { launch_ = std::move(launch); }
  void push(GroupPtr group, Job job);
  // Every job that is not launched, and comes later, is done with `status`.
  void fail(const Status& status);
  // Until nothing of this group is here; false if that is not so by `deadline`.
  bool wait_launched(const ProcessGroup& group, Clock::time_point deadline);
  // REQUIRES: no push() any more. Ends the thread; false when `deadline` came first: then this
  // object must be left alone for ever.
  bool stop(Clock::time_point deadline);

 private:
  struct Entry {
    GroupPtr group;
    Job job;
  };
  void loop();

  Launch launch_;
  std::thread thread_;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<Entry> queue_;        // the first one is the thread's while it is launching
  std::optional<Status> failure_;  // set by fail()
  bool launching_ = false;
  bool broken_ = false;
  bool stopping_ = false;
};

// Finishes the works of a job.
void end_job(const Job& job, const Status& status);

}  // namespace khorus::runtime
