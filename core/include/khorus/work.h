// Work: the handle of one submitted operation.
//
// Thread rule: every method may be called from any thread, also from several at once. A Work may
// outlive its Engine: a Work that was in flight at shutdown is done, with an error.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "khorus/export.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus {

class KHORUS_API Work {
 public:
  virtual ~Work() = default;

  // The tensor's name, as negotiated.
  virtual const std::string& name() const noexcept = 0;

  // True once the operation is over, well or badly. Never blocks.
  virtual bool poll() const noexcept = 0;

  // Blocks until the operation is over; returns its Status. Every wait ends: by the result, by a
  // PeerLost or Aborted error, or by shutdown.
  virtual Status wait() = 0;

  // As wait(), but false when a signal handler ran on this thread before the operation was over:
  // for interpreters, which must see to the signal and may wait again. Then `status` is unchanged.
  virtual bool wait_or_signal(Status* status) = 0;

  // What came of it. REQUIRES: poll() is true and the Status was ok, or wait_on_stream()
  // (khorus/device.h) was: then the memory is there, and complete for that stream.
  // allreduce, broadcast, recv: the output tensor the caller gave. allgather, alltoall: memory that
  // the engine allocated, with shape [sum of first extents, rest...]; reducescatter: the same with
  // this rank's rows. `owner` keeps it alive.
  virtual TensorView result() const = 0;

  // By rank of the process set: first extents of an allgather; of an alltoall the rows that came
  // from each rank (the received splits). Else empty.
  // REQUIRES: as result().
  virtual std::vector<int64_t> first_extents() const = 0;

  // join: the last rank that joined. Else -1. REQUIRES: as result().
  virtual int last_joined() const = 0;

  // Runs `callback` with the Status once the operation is over: at once, on this thread, if it is
  // over already; else on the thread that finishes it, before wait() returns there. The callback
  // must not block and must not throw.
  virtual void on_done(std::function<void(const Status&)> callback) = 0;
};

using WorkPtr = std::shared_ptr<Work>;

// Waits for all; returns the first error in list order (after all are over), or ok.
KHORUS_API Status wait_all(const std::vector<WorkPtr>& works);

}  // namespace khorus
