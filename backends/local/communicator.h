// Communicator of the local backend: one rank's end of a Hub.
//
// This is the reference the other backends are measured against: every element is reduced once, in
// rank order, by one of the ranks, which stores it into everyone's output. The same inputs
// therefore give the same bits, whatever the arrival order. Thread rule: that of khorus_backend.
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
  void work(const khorus_op& op) const;
  void allreduce_part(const khorus_op& op) const;
  void gather_others(const khorus_op& op) const;
  void copy(void* destination, const void* source, size_t bytes) const;

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
