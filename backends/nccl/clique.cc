// See clique.h; "Fault Tolerance" in NVIDIA's documentation of NCCL.
#include "backends/nccl/clique.h"

#include <algorithm>
#include <utility>

namespace khorus::backends::nccl {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;
using std::chrono::milliseconds;

// A launch takes some ten microseconds: at first ask again at once, then ever more seldom.
constexpr int kEagerQuestions = 50;
constexpr microseconds kFirstPause{50};
constexpr microseconds kLongestPause{2000};
// How long a rank that leaves waits for what NCCL still has to send.
constexpr milliseconds kLeavePatience{250};

// What failed on the way is the job's data plane; what was asked for wrongly is our mistake.
StatusCode code_of(ncclResult_t result) {
  switch (result) {
    case ncclInternalError:
    case ncclInvalidArgument:
    case ncclInvalidUsage:
      return StatusCode::kInternal;
    default:
      return StatusCode::kAborted;
  }
}

}  // namespace

Status Clique::status_of(ncclResult_t result) const {
  if (result == ncclSuccess || result == ncclInProgress) return {};
  return Status(code_of(result), "NCCL: " + library_.describe(result, comm_));
}

Status Clique::init(const Seat& seat) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  {
    const std::scoped_lock lock(mutex_);
    if (Status status = progress_.end(); !status.ok()) return status;
    const ncclResult_t result =
        library_.comm_init_rank_config(&comm_, seat.size, seat.id, seat.rank, &config);
    if (Status status = status_of(result); !status.ok()) return status;
  }
  const Status status = settle(timeout_);
  if (status.ok()) {
    const std::scoped_lock lock(mutex_);
    is_made_ = true;
  }
  if (status.code() != StatusCode::kTimeout) return status;
  return Status(StatusCode::kTimeout, "NCCL has not brought the ranks together in " +
                                          std::to_string(timeout_.count()) +
                                          " ms; NCCL_DEBUG=INFO tells what it waits for");
}

Status Clique::settle(milliseconds limit) {
  const Clock::time_point deadline = Clock::now() + limit;
  microseconds pause = kFirstPause;
  for (int questions = 1;; ++questions) {
    {
      const std::scoped_lock lock(mutex_);
      if (Status status = progress_.end(); !status.ok()) return status;
      ncclResult_t state = ncclSuccess;
      if (comm_ == nullptr || is_revoked_) return Status(StatusCode::kAborted, "NCCL was aborted");
      Status status = status_of(library_.comm_get_async_error(comm_, &state));
      if (status.ok()) status = status_of(state);
      if (!status.ok() || state != ncclInProgress) return status;
    }
    if (questions < kEagerQuestions) continue;
    if (Clock::now() > deadline) return Status(StatusCode::kTimeout, "NCCL is still in progress");
    progress_.pause(pause);
    pause = std::min(pause * 2, kLongestPause);
  }
}

Status Clique::submit(const Calls& calls) {
  {
    const std::scoped_lock lock(mutex_);
    if (Status status = progress_.end(); !status.ok()) return status;
    if (comm_ == nullptr || is_revoked_) return Status(StatusCode::kAborted, "NCCL was aborted");
    ncclResult_t result = library_.group_start();
    if (result == ncclSuccess) {
      const ncclResult_t called = calls(library_, comm_);
      result = library_.group_end();
      if (called != ncclSuccess && called != ncclInProgress) result = called;
    }
    if (Status status = status_of(result); !status.ok()) return status;
  }
  return settle(timeout_);
}

void Clique::call(const std::function<void(const Library&, ncclComm_t)>& function) {
  const std::scoped_lock lock(mutex_);
  if (comm_ != nullptr && !is_revoked_) function(library_, comm_);
}

Status Clique::check() {
  const std::scoped_lock lock(mutex_);
  ncclResult_t state = ncclSuccess;
  if (comm_ == nullptr || is_revoked_) return {};
  Status status = status_of(library_.comm_get_async_error(comm_, &state));
  return status.ok() ? status_of(state) : status;
}

void Clique::abort() {
  const std::scoped_lock lock(mutex_);
  if (comm_ == nullptr || is_revoked_) return;
  is_revoked_ =
      is_made_ && library_.comm_revoke != nullptr && status_of(library_.comm_revoke(comm_, 0)).ok();
  if (!is_revoked_) library_.comm_abort(std::exchange(comm_, nullptr));
}

Clique::~Clique() {
  const std::scoped_lock lock(mutex_);
  if (comm_ != nullptr) library_.comm_abort(std::exchange(comm_, nullptr));
}

void Clique::leave() {
  Status status;
  {
    const std::scoped_lock lock(mutex_);
    if (comm_ == nullptr || is_revoked_) return;
    status = status_of(library_.comm_finalize(comm_));
  }
  if (status.ok()) status = settle(kLeavePatience);
  if (!status.ok()) return abort();
  const std::scoped_lock lock(mutex_);
  if (comm_ != nullptr) library_.comm_destroy(std::exchange(comm_, nullptr));
}

}  // namespace khorus::backends::nccl
