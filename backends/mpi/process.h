// Process: MPI's life in this process, of which there is one, whatever the number of engines.
//
// MPI can be initialised and finalised once per process. If the application has not done it, the
// first connect() does, on a thread that is kept for the purpose ("khorus-mpi"), because the thread
// that calls MPI_Init should also call MPI_Finalize; the latter is done when the process exits, and
// waits for all ranks, as it does in any MPI program: mpirun ends the job if one of them dies.
// An application that has called MPI_Init_thread itself keeps MPI to itself.
//
// Abandoning: a request that cannot be cancelled may still read and write its memory, so that
// memory is kept until the process ends, MPI is not finalised, and no further communicator is made.
//
// Thread rule: every method from any thread. State of the process, because MPI is.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/mpi/interrupt.h"
#include "backends/mpi/library.h"
#include "khorus/status.h"

namespace khorus::backends::mpi {

// A communicator that has been made for a list of MPI ranks. It stays until MPI is finalised: to
// free one is collective, and to leave a group is not.
struct SharedComm {
  uint64_t id = 0;  // equal on all its ranks; 0: there is none
  MPI_Comm comm = nullptr;
};

class Process {
 public:
  static Process& instance();

  // MPI is usable when this returns ok. Aborted when interrupted.
  Status start(const std::shared_ptr<Interrupt>& interrupt);
  // After start().
  const Library& library() const { return *library_; }
  int world_rank() const { return world_rank_; }
  int world_size() const { return world_size_; }
  // Tags are 0 to this one.
  int largest_tag() const { return largest_tag_; }

  // A number that this process never gives again.
  uint64_t next_number();
  SharedComm find_comm(const std::vector<int>& world_ranks);
  void keep_comm(const std::vector<int>& world_ranks, SharedComm comm);

  // Some rank may not come to MPI_Finalize any more: it is left out.
  void skip_finalize();
  // `memory` lives until the process ends. `why` is what later starts are refused with.
  void abandon(const std::string& why, std::shared_ptr<void> memory);

 private:
  enum class State : uint8_t { kNew, kStarting, kRunning, kFailed, kEnding, kEnded };

  Process() = default;
  Status refusal() const;
  void start_and_wait();
  void own_thread();
  Status adopt();
  Status initialise();
  Status look_around();
  void finish();
  static void finish_at_exit();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kNew;
  int64_t pid_ = 0;  // of the process that started MPI; a forked child has another
  Status failure_;   // kFailed
  bool skip_finalize_ = false;
  std::string abandoned_;  // why; empty: nothing was
  std::vector<std::shared_ptr<void>> kept_;
  uint64_t numbers_ = 0;
  std::map<std::vector<int>, SharedComm> comms_;
  // Written before kRunning.
  const Library* library_ = nullptr;
  int world_rank_ = -1;
  int world_size_ = 0;
  int largest_tag_ = 32767;
};

}  // namespace khorus::backends::mpi
