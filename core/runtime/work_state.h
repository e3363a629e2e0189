// WorkState: what a khorus::Work is inside.
//
// Shared by the submitting thread, the coordinator thread and whoever runs the operation. Its
// progress is guarded by the lock of its Lane (lane.h), which also holds the threads that wait for
// it; a Work that was refused at once has no lane and was born done.
//
// Thread rule: the Work interface from any thread. The fields of the operation are written before
// the Work is submitted, the result before it is finished; nothing changes after that.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/wire/message.h"
#include "khorus/work.h"

namespace khorus::runtime {

class DeviceMark;
class Lane;
struct LaneWaiter;

class WorkState final : public Work {
 public:
  // What the caller gave; the result of an allgather is made later.
  struct Operation {
    std::string name;
    OpKind kind = OpKind::kAllreduce;
    TensorView input;
    TensorView output;
    std::vector<int64_t> splits;  // alltoall: rows to each rank of the set
  };

  WorkState(Operation operation, std::shared_ptr<Lane> lane);
  // Born done, with an error.
  WorkState(std::string name, Status status);

  const std::string& name() const noexcept override { return operation_.name; }
  bool poll() const noexcept override { return phase() != Phase::kPending; }
  Status wait() override;
  bool wait_or_signal(Status* status) override;
  TensorView result() const override;
  std::vector<int64_t> first_extents() const override;
  int last_joined() const override;
  void on_done(std::function<void(const Status&)> callback) override;

  const Operation& operation() const noexcept { return operation_; }
  const std::shared_ptr<Lane>& lane() const noexcept { return lane_; }

  // Of device tensors; else null. Before the Work is submitted.
  void set_device_mark(std::shared_ptr<DeviceMark> mark) { device_mark_ = std::move(mark); }
  const std::shared_ptr<DeviceMark>& device_mark() const noexcept { return device_mark_; }

  // When it reached which stage (nanoseconds of steady_clock), and its number in the flight
  // recorder. The observer's, on whichever thread has the work in hand.
  struct Trail {
    uint64_t record = 0;
    int64_t submitted_ns = 0, agreed_ns = 0, started_ns = 0;
  };
  Trail& trail() noexcept { return trail_; }
  const Trail& trail() const noexcept { return trail_; }

  // By whoever completes the operation, before Lane::finish.
  void set_gathered(TensorView result, std::vector<int64_t> extents);
  void set_payloads(std::vector<wire::Bytes> payloads) { payloads_ = std::move(payloads); }
  void set_value(int64_t value) { value_ = value; }
  // Of an exchange that is done and ok.
  const std::vector<wire::Bytes>& payloads() const noexcept { return payloads_; }
  // Of an add_process_set that is done and ok: the id. Of a join: the last rank.
  int64_t value() const noexcept { return value_; }

 private:
  friend class Lane;
  // kOver: the status is known, callbacks run; kReleased: waiters return.
  enum class Phase : uint8_t { kPending, kOver, kReleased };
  Status wait(bool* signalled);
  bool has_result() const;
  Phase phase() const noexcept { return phase_.load(std::memory_order_acquire); }

  Operation operation_;
  Trail trail_;
  std::shared_ptr<Lane> lane_;
  std::shared_ptr<DeviceMark> device_mark_;
  std::vector<int64_t> extents_;
  std::vector<wire::Bytes> payloads_;
  int64_t value_ = -1;

  // Written under the lane's lock.
  std::atomic<Phase> phase_{Phase::kPending};
  std::atomic<std::thread::id> finisher_{};  // runs the callbacks; may wait() meanwhile
  Status status_;
  std::vector<std::function<void(const Status&)>> callbacks_;
  LaneWaiter* waiters_ = nullptr;  // threads asleep in wait()
};

using WorkStatePtr = std::shared_ptr<WorkState>;

}  // namespace khorus::runtime
