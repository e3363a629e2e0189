// See mesh.h.
#include "backends/mpi/mesh.h"

#include <sched.h>

#include <algorithm>
#include <bit>

namespace khorus::backends::mpi {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

// All slots together, as far as the bounds of one slot allow.
constexpr size_t kMemoryBytes = size_t{8} << 20;
constexpr size_t kLargestSlot = size_t{512} << 10;
constexpr size_t kSmallestSlot = size_t{16} << 10;

size_t choose_slot_bytes(int size) {
  const size_t slots = 2 * static_cast<size_t>(std::max(size - 1, 1));
  return std::clamp(std::bit_floor(kMemoryBytes / slots), kSmallestSlot, kLargestSlot);
}

// One wait: how long between two looks, by how long nothing has come.
class Patience {
 public:
  explicit Patience(Interrupt& interrupt) : interrupt_(interrupt) {}

  void progressed() { since_ = Clock::now(); }
  Clock::duration waited() const { return Clock::now() - since_; }
  void pause() {
    const Clock::duration so_far = waited();
    if (so_far < kBusy) return;
    if (so_far < kYielding) {
      ::sched_yield();
      return;
    }
    interrupt_.pause(std::min<Clock::duration>(so_far / 8, kLongestPause));
  }

 private:
  static constexpr microseconds kBusy{20};
  static constexpr microseconds kYielding{400};
  static constexpr microseconds kLongestPause{2000};
  Interrupt& interrupt_;
  Clock::time_point since_ = Clock::now();
};

}  // namespace

Mesh::Mesh(const MeshOptions& options)
    : options_(options), slot_bytes_(choose_slot_bytes(options.size)) {
  const size_t size = static_cast<size_t>(options.size);
  // Not initialised: pages that are never used cost nothing.
  memory_ = std::make_unique_for_overwrite<std::byte[]>(2 * size * slot_bytes_);
  requests_.assign(2 * size, options.library->no_request);
  ended_.resize(2 * size);
  statuses_.resize(2 * size);
}

std::byte* Mesh::slot(int peer, size_t direction) {
  return memory_.get() + (2 * static_cast<size_t>(peer) + direction) * slot_bytes_;
}

void Mesh::round(std::span<const Parcel> parcels) {
  if (options_.interrupt->raised()) throw Interrupted();
  post(parcels);
  wait(parcels);
}

void Mesh::post(std::span<const Parcel> parcels) {
  const Library& mpi = *options_.library;
  const auto post_one = [&](int peer, size_t direction, int code) {
    if (code != MPI_SUCCESS) {
      throw Failure(
          peer, false,
          (direction == 0 ? "MPI_Irecv failed: " : "MPI_Isend failed: ") + mpi.describe(code));
    }
    ++open_;
  };
  // First the receives: what finds one waiting is not copied by MPI on the way.
  for (int peer = 0; peer < size(); ++peer) {
    const size_t bytes = parcels[static_cast<size_t>(peer)].receive;
    if (peer == rank() || bytes == 0) continue;
    MPI_Request* const request = &requests_[2 * static_cast<size_t>(peer)];
    post_one(peer, 0,
             mpi.irecv(slot(peer, 1), static_cast<int>(bytes), mpi.byte, peer, options_.tag,
                       options_.comm, request));
  }
  // The next rank first, so that not all begin with the same one.
  for (int step = 1; step < size(); ++step) {
    const int peer = (rank() + step) % size();
    const size_t bytes = parcels[static_cast<size_t>(peer)].send;
    if (bytes == 0) continue;
    MPI_Request* const request = &requests_[2 * static_cast<size_t>(peer) + 1];
    post_one(peer, 1,
             mpi.isend(slot(peer, 0), static_cast<int>(bytes), mpi.byte, peer, options_.tag,
                       options_.comm, request));
  }
}

void Mesh::wait(std::span<const Parcel> parcels) {
  Patience patience(*options_.interrupt);
  while (open_ > 0) {
    if (look(parcels) > 0) {
      patience.progressed();
      continue;
    }
    if (options_.interrupt->raised()) throw Interrupted();
    if (patience.waited() > options_.timeout) {
      throw Failure(peer_that_keeps_us_waiting(), true,
                    "nothing came or went for " + std::to_string(options_.timeout.count()) + " ms");
    }
    patience.pause();
  }
}

int Mesh::look(std::span<const Parcel> parcels) {
  int count = 0;
  const int code = options_.library->testsome(static_cast<int>(requests_.size()), requests_.data(),
                                              &count, ended_.data(), statuses_.data());
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) {
    throw Failure(-1, false, "MPI_Testsome failed: " + options_.library->describe(code));
  }
  if (count == MPI_UNDEFINED) return 0;
  open_ -= static_cast<size_t>(count);
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    check(ended_[i], statuses_[i], code == MPI_ERR_IN_STATUS, parcels);
  }
  return count;
}

void Mesh::check(int request, const MPI_Status& status, bool failed,
                 std::span<const Parcel> parcels) {
  const int peer = request / 2;
  const bool is_send = request % 2 != 0;
  if (failed && status.MPI_ERROR != MPI_SUCCESS) {
    throw Failure(peer, false,
                  (is_send ? "a message to it failed: " : "a message from it failed: ") +
                      options_.library->describe(status.MPI_ERROR));
  }
  if (is_send) return;
  int bytes = 0;
  options_.library->get_count(&status, options_.library->byte, &bytes);
  const size_t expected = parcels[static_cast<size_t>(peer)].receive;
  if (bytes < 0 || static_cast<size_t>(bytes) != expected) {
    throw Failure(peer, false,
                  "a message of " + std::to_string(bytes) + " bytes came where " +
                      std::to_string(expected) +
                      " were expected; all ranks of a group run the same operations in the same "
                      "order");
  }
}

// Who has sent nothing; if all have, who takes nothing.
int Mesh::peer_that_keeps_us_waiting() const {
  for (const size_t direction : {size_t{0}, size_t{1}}) {
    for (size_t peer = 0; peer < requests_.size() / 2; ++peer) {
      if (is_active(2 * peer + direction)) return static_cast<int>(peer);
    }
  }
  return -1;
}

bool Mesh::give_up() noexcept {
  const Library& mpi = *options_.library;
  for (size_t i = 0; i < requests_.size(); ++i) {
    // A receive that has not met its message yet is taken back here and now. MPI-4 has deprecated
    // to cancel sends, and Open MPI never could.
    if (i % 2 == 0 && is_active(i)) mpi.cancel(&requests_[i]);
  }
  int count = 0;
  mpi.testsome(static_cast<int>(requests_.size()), requests_.data(), &count, ended_.data(),
               statuses_.data());
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (is_active(i)) return true;
  }
  return false;
}

}  // namespace khorus::backends::mpi
