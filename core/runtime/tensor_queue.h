// TensorQueue: what other threads want from the coordinator thread.
//
// Submitted operations in the order of submission, and the few things that are not operations. When
// it is closed, what was pushed before is still taken out, and what comes later is refused with the
// reason: so an operation is either negotiated or refused, never lost.
//
// Thread rule: every method from any thread; take() by the coordinator thread.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/protocol/node.h"
#include "core/runtime/peer_watch.h"
#include "core/runtime/work_state.h"
#include "khorus/status.h"

namespace khorus::runtime {

// One operation, or the members of one group; works by submission.
struct Batch {
  std::vector<protocol::Submission> submissions;
  std::vector<WorkStatePtr> works;
};

class TensorQueue {
 public:
  struct Contents {
    std::vector<Batch> batches;
    std::vector<protocol::PeerInfo> peers;     // not empty: who the ranks are
    std::vector<PeerWatch::Peer> watched;      // of them those to look after
    std::optional<Status> data_plane_failure;  // seen by the runner
    std::optional<std::string> leave;          // shutdown() was called
    std::optional<Status> end_now;             // and has waited long enough
  };

  // Ok, or why the queue is closed; then the batch is untouched. `first`: whether it is the only
  // one here now.
  Status push(Batch& batch, bool* first) {
    const std::lock_guard lock(mutex_);
    if (closed_.has_value()) return *closed_;
    *first = contents_.batches.empty();
    contents_.batches.push_back(std::move(batch));
    return Status();
  }
  // The first reason stays.
  void close(const Status& reason) {
    const std::lock_guard lock(mutex_);
    if (!closed_.has_value()) closed_ = reason;
  }
  // Ok while it is open.
  Status health() const {
    const std::lock_guard lock(mutex_);
    return closed_.value_or(Status());
  }
  // `change` alters the Contents.
  template <class Change>
  void put(Change&& change) {
    const std::lock_guard lock(mutex_);
    change(contents_);
  }
  Contents take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(contents_, {});
  }

 private:
  mutable std::mutex mutex_;
  Contents contents_;
  std::optional<Status> closed_;
};

}  // namespace khorus::runtime
