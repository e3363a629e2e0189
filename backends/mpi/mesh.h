// Mesh: one rank's staging memory and requests towards every other rank of the group.
//
// MPI never sees the caller's memory: what it sends lies in outgoing(), what it receives in
// incoming(), both owned here, one slot per peer and direction. So run() can return at any time
// (DESIGN.md, section 6): what cannot be taken back is left with MPI, and the memory with it.
//
// A round posts the receives, then the sends, and waits for all with MPI_Testsome. MPI has no wait
// that another thread can end, and no descriptor to sleep on, and its messages move only while
// somebody calls it: so the wait looks at it again and again, at first without a pause, then giving
// up the processor, then with pauses that grow with the time waited to a bound. An abort ends a
// pause at once.
//
// Thread rule: one thread at a time.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/mpi/interrupt.h"
#include "backends/mpi/library.h"

namespace khorus::backends::mpi {

// A peer that does not answer, or whose message MPI could not carry. `peer` is a rank of the group,
// or -1.
class Failure : public std::runtime_error {
 public:
  Failure(int peer, bool timed_out, const std::string& what)
      : std::runtime_error(what), peer_(peer), timed_out_(timed_out) {}
  int peer() const { return peer_; }
  bool timed_out() const { return timed_out_; }

 private:
  int peer_;
  bool timed_out_;
};
// The interrupt was raised.
class Interrupted : public std::exception {};

struct MeshOptions {
  const Library* library = nullptr;
  MPI_Comm comm = nullptr;
  int tag = 0;  // of this mesh alone in `comm`
  int rank = 0;
  int size = 1;
  std::chrono::milliseconds timeout{};
  std::shared_ptr<Interrupt> interrupt;
};

// What one round moves from and to one peer, in bytes; 0: no message.
struct Parcel {
  size_t send = 0;
  size_t receive = 0;
};

class Mesh {
 public:
  explicit Mesh(const MeshOptions& options);
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  int rank() const { return options_.rank; }
  int size() const { return options_.size; }
  // Of each slot: the longest message. A multiple of 128.
  size_t slot_bytes() const { return slot_bytes_; }
  std::byte* outgoing(int peer) { return slot(peer, 0); }
  const std::byte* incoming(int peer) { return slot(peer, 1); }

  // `parcels` has size() entries; this rank's own is not looked at. Throws Failure, Interrupted.
  void round(std::span<const Parcel> parcels);
  // After round() has thrown: takes back what can be taken back. True if MPI still uses our memory.
  bool give_up() noexcept;

 private:
  std::byte* slot(int peer, size_t direction);
  void post(std::span<const Parcel> parcels);
  void wait(std::span<const Parcel> parcels);
  // The number of requests that have ended since the last look.
  int look(std::span<const Parcel> parcels);
  void check(int request, const MPI_Status& status, bool failed, std::span<const Parcel> parcels);
  int peer_that_keeps_us_waiting() const;
  bool is_active(size_t request) const {
    return requests_[request] != options_.library->no_request;
  }

  const MeshOptions options_;
  const size_t slot_bytes_;
  std::unique_ptr<std::byte[]> memory_;
  // By 2 * peer: the receive; by 2 * peer + 1: the send.
  std::vector<MPI_Request> requests_;
  std::vector<int> ended_;
  std::vector<MPI_Status> statuses_;
  size_t open_ = 0;  // requests that have not ended
};

}  // namespace khorus::backends::mpi
