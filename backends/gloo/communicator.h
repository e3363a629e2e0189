// Communicator of the gloo backend: one rank's end of a group, over TCP.
//
// Meets the others through the engine's exchange, then holds the Mesh and turns its failures into
// Status values. Thread rule: that of khorus_backend.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/gloo/collectives.h"
#include "backends/gloo/mesh.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::gloo {

class Communicator {
 public:
  static Result<std::unique_ptr<Communicator>> open(const khorus_group& group);
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  Status connect();
  Status run(const khorus_op& op);
  void abort(const std::string& reason);

 private:
  Communicator(const khorus_group& group, const std::string& interface);
  Status meet();
  void log_where() const;
  void run_collective(const khorus_op& op);
  // `doing`: "connecting", "an allreduce of 7 float32".
  Status explain(const Failure& failure, const std::string& doing) const;
  Status aborted() const;

  const std::vector<int32_t> global_ranks_;
  const std::vector<std::string> hosts_;
  const int64_t timeout_ms_;
  const std::string interface_;
  const khorus_host* const host_;
  Mesh mesh_;
  Collectives collectives_;
  bool connected_ = false;
  Status broken_;  // the first failure of run(): there is no second try
  mutable std::mutex mutex_;
  Status aborted_;
};

}  // namespace khorus::backends::gloo
