// Clique: this rank's end of an NCCL communicator, non-blocking.
//
// A non-blocking communicator answers ncclInProgress and has to be asked until it is through: only
// then is an operation in its stream, and only then may anything but an abort be called. So no call
// of NCCL's lasts, and an abort can come in between at any time.
//
// Thread rule: abort() and check() from any thread; the rest by one thread at a time.
#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <string>

#include "backends/nccl/library.h"
#include "backends/nccl/progress.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

// The calls of one group: remembers the first result that is not success, and makes none after it.
class CallGroup {
 public:
  template <class Call>
  void add(Call&& call) {
    if (result_ == ncclSuccess) result_ = call();
    if (result_ == ncclInProgress) result_ = ncclSuccess;
  }
  ncclResult_t result() const { return result_; }

 private:
  ncclResult_t result_ = ncclSuccess;
};

class Clique {
 public:
  Clique(const Library& library, Progress& progress, std::chrono::milliseconds timeout)
      : library_(library), progress_(progress), timeout_(timeout) {}
  // Frees it, ending what is under way.
  ~Clique();
  Clique(const Clique&) = delete;
  Clique& operator=(const Clique&) = delete;

  struct Seat {
    ncclUniqueId id;
    int rank;
    int size;
  };
  // Meets the other ranks. REQUIRES: the device's context is current.
  Status init(const Seat& seat);
  // Makes these calls as one group and returns when they are in their streams. REQUIRES: as init().
  using Calls = std::function<ncclResult_t(const Library&, ncclComm_t)>;
  Status submit(const Calls& calls);
  // Calls this if the communicator is still there.
  void call(const std::function<void(const Library&, ncclComm_t)>& function);
  // Whether NCCL has seen something fail.
  Status check();
  // Ends what is on the device, now or when it comes there. With ncclCommRevoke (from NCCL 2.29 on)
  // nothing is freed before the destructor: to free memory waits for the whole device, also for
  // other communicators that are still to be aborted.
  void abort();
  // Leaves without ending what others still need; nothing of this rank may be under way.
  void leave();

 private:
  // Asks until it is through; what it says then. `limit`: Timeout after it.
  Status settle(std::chrono::milliseconds limit);
  // Ok for ncclSuccess and ncclInProgress. REQUIRES: the lock.
  Status status_of(ncclResult_t result) const;

  const Library& library_;
  Progress& progress_;
  const std::chrono::milliseconds timeout_;
  std::mutex mutex_;           // around every call of NCCL's
  ncclComm_t comm_ = nullptr;  // null: not made, or freed
  bool is_made_ = false;       // init() has ended well
  bool is_revoked_ = false;
};

}  // namespace khorus::backends::nccl
