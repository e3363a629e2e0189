// Communicator of the shm backend: one rank's end of a group inside one host.
//
// Meets the others through the engine's exchange, then holds the segments and runs the operations
// on them; turns failures into Status values. Only run() touches the caller's memory, on the
// calling thread, so nothing does after it has returned. Thread rule: that of khorus_backend.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backends/shm/arenas.h"
#include "backends/shm/collectives.h"
#include "backends/shm/failure.h"
#include "backends/shm/interrupt.h"
#include "backends/shm/layout.h"
#include "backends/shm/meeting.h"
#include "backends/shm/signals.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::shm {

class Communicator {
 public:
  static Result<std::unique_ptr<Communicator>> open(const khorus_group& group);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  Status connect();
  Status run(const khorus_op& op);
  Result<khorus_memory> allocate(size_t bytes);
  void abort(const std::string& reason);

 private:
  explicit Communicator(const khorus_group& group);
  Status meet();
  void start(std::vector<Neighbour> neighbours);
  bool process_ended(int peer) const;
  void leave() noexcept;
  // `doing`: "connecting", "an allreduce of 7 float32".
  Status explain(const Failure& failure, const std::string& doing) const;
  Status aborted() const;

  const int rank_;
  const std::vector<int32_t> global_ranks_;
  const std::vector<std::string> hosts_;
  const std::chrono::milliseconds timeout_;
  const khorus_host* const host_;
  const Layout layout_;
  const uint64_t process_;  // which of the processes of a chain of forks
  Interrupt interrupt_;
  std::vector<Neighbour> neighbours_;
  std::optional<Signals> signals_;
  std::optional<Arenas> arenas_;
  std::optional<Collectives> collectives_;
  bool connected_ = false;
  Status broken_;  // the first failure of run(): there is no second try
  mutable std::mutex mutex_;
  Status aborted_;
};

}  // namespace khorus::backends::shm
