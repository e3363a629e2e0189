// Communicator of the nccl backend: one rank's end of a group, on one GPU.
//
// connect() compares through the engine's exchange what the ranks are (version of NCCL, GPU), and
// brings NCCL's id from the first rank to the others. run() puts an operation on the device, after
// the framework's work that it needs, and returns; order() and finish() are the ways to wait for
// it. Thread rule: that of khorus_backend.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backends/nccl/clique.h"
#include "backends/nccl/collectives.h"
#include "backends/nccl/device.h"
#include "backends/nccl/device_clock.h"
#include "backends/nccl/meeting.h"
#include "backends/nccl/mover.h"
#include "backends/nccl/progress.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

class Communicator {
 public:
  static Result<std::unique_ptr<Communicator>> open(const khorus_group& group);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  Status connect();
  Status run(const khorus_op& op);
  Status order(uint64_t sequence, void* stream);
  Status finish(uint64_t sequence);
  bool times(uint64_t sequence, int64_t* begin_ns, int64_t* end_ns);
  Result<khorus_memory> allocate(size_t bytes);
  void abort(const std::string& reason);

 private:
  using Clock = std::chrono::steady_clock;
  // An operation on the device that nobody has seen complete.
  struct Flight {
    uint64_t number;    // counted from 1
    uint64_t sequence;  // the engine's
    CUevent begun;
    CUevent done;
    Device::Timing timing;
  };

  Communicator(const khorus_group& group, const Driver& driver, const Library& library);
  Status put_in_stream(const khorus_op& op);
  // What is put into our stream from now on begins after this.
  Status await(void* stream, void* ready_event);
  Status run_in_stream(const khorus_op& op);
  // Null, and a line in the log, if there are none.
  std::unique_ptr<Module> load_kernels() const;
  // Ends everything, and returns when the device touches nobody's memory any more.
  Status give_up(const Status& failure);
  // Until the device is through with what is in the stream; false if that takes too long.
  bool drain();
  // Whether a peer has been silent for too long; `since`: when the operation was first seen begun.
  Status check_silence(const Flight& flight, std::optional<Clock::time_point>& since);
  std::optional<Flight> find_flight(uint64_t sequence);
  Status land(const Flight& flight);
  // REQUIRES: the lock, and that the host saw it complete at `seen`.
  void time(const Flight& flight, Clock::time_point seen);
  std::string where() const;

  const Party party_;
  const std::chrono::milliseconds timeout_;
  const Library& library_;
  std::unique_ptr<Device> device_;
  const std::shared_ptr<Progress> progress_ = std::make_shared<Progress>();
  std::optional<Mover> mover_;
  Clique clique_;
  std::optional<Collectives> collectives_;  // not in a group of one
  bool all_have_kernels_ = false;
  std::mutex mutex_;  // of what follows
  bool is_connected_ = false;
  uint64_t started_ = 0;
  std::deque<Flight> flights_;
  DeviceClock clock_;
  uint64_t timed_sequence_ = 0;
  std::optional<DeviceClock::Span> timed_;  // of the operation with this sequence
};

}  // namespace khorus::backends::nccl
