// Communicator of the mpi backend: one rank's end of a group, over Open MPI.
//
// connect() starts MPI where nobody has, learns through the engine's exchange which MPI rank each
// rank of the group is, and makes (or finds again) an MPI communicator of those; the messages of
// several Communicators over the same ranks differ by their tag. Holds the Mesh and turns its
// failures into Status values. Thread rule: that of khorus_backend.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/mpi/collectives.h"
#include "backends/mpi/interrupt.h"
#include "backends/mpi/mesh.h"
#include "backends/mpi/process.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::mpi {

class Communicator {
 public:
  static Result<std::unique_ptr<Communicator>> open(const khorus_group& group);
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  Status connect();
  Status run(const khorus_op& op);
  void abort(const std::string& reason) { interrupt_->raise(reason); }

 private:
  explicit Communicator(const khorus_group& group);
  int size() const { return static_cast<int>(global_ranks_.size()); }
  Status meet();
  // The MPI rank of every rank of the group.
  Result<std::vector<int>> learn_world_ranks();
  Result<SharedComm> shared_comm(const std::vector<int>& world_ranks, uint64_t* number);
  Result<MPI_Comm> make_comm(const std::vector<int>& world_ranks, uint64_t number);
  Status explain(const Failure& failure, const khorus_op& op) const;
  // After an operation that did not end well.
  void give_up(const khorus_op& op);

  const int rank_;
  const std::vector<int32_t> global_ranks_;
  const std::vector<std::string> hosts_;
  const std::chrono::milliseconds timeout_;
  const khorus_host* const host_;
  const std::shared_ptr<Interrupt> interrupt_ = std::make_shared<Interrupt>();
  std::shared_ptr<Mesh> mesh_;
  std::optional<Collectives> collectives_;
  bool connected_ = false;
  Status broken_;  // the first failure of run(): there is no second try
};

}  // namespace khorus::backends::mpi
