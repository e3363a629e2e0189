// Communicator of the local backend: one rank's end of a Hub.
//
// Finds the others through the engine's exchange, meets them in the hub for every operation and
// does this rank's Part of it. Thread rule: that of khorus_backend.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/local/hub.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::local {

class Communicator {
 public:
  static Result<std::unique_ptr<Communicator>> open(const khorus_group& group);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  Status connect();
  Status run(const khorus_op& op);
  void abort(const std::string& reason);

 private:
  explicit Communicator(const khorus_group& group);
  Result<std::shared_ptr<Hub>> meet();
  // The operation with those who take part in it.
  Status run_together(const khorus_op& op);
  // Tells the others that they cannot count on this rank any more.
  void break_off(const std::string& what) const;

  const int rank_;
  const int size_;
  const std::vector<int32_t> global_ranks_;
  const std::chrono::milliseconds timeout_;
  const khorus_host* const host_;
  std::mutex mutex_;  // of what abort() and connect() both touch
  std::shared_ptr<Hub> hub_;
  Status aborted_;
};

}  // namespace khorus::backends::local
