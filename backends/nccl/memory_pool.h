// MemoryPool: the device's memory that is lent to callers: results of allgather, alltoall and
// reducescatter, the zeros of ranks that have joined, and gradients.
//
// What comes back is lent again. The driver's own ways would cost a training step much: cuMemAlloc
// may wait for the device, and cuMemFree waits for all that is on it. It is the driver's ordinary
// memory all the same (cuMemAlloc), which NCCL may touch from another GPU of the process; memory of
// the driver's stream-ordered allocator would need that to be allowed for every GPU.
//
// Who gives memory back has seen the device done with it (khorus_memory.release). It is zeroed
// then, on a stream of the pool's, and lent again when the zeros are there: so nobody waits for
// zeros in a training step, and on the tests' double whoever gives it back too early, or goes on
// using it, is found out, because the zeros are not ordered after that.
//
// A pool is the process's for one GPU: memory of a communicator that is gone serves the next one.
// It keeps at most Limits of what is not lent; beyond them what has lain there longest goes back to
// the driver, and all of it when the driver has no memory left for a new loan, and with the last
// communicator and the last loan of that GPU.
//
// Thread rule: any thread; needs no current context. Blocks are freed without the lock: that may
// wait for the device, which may wait for a peer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "backends/nccl/driver.h"
#include "backends/nccl/primary_context.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

class MemoryPool : public std::enable_shared_from_this<MemoryPool> {
 public:
  // Of what is kept for later loans.
  struct Limits {
    size_t bytes = size_t{512} << 20;
    size_t blocks = 256;
  };
  // That of the GPU in this process.
  static Result<std::shared_ptr<MemoryPool>> of(const Driver& driver, int ordinal);
  // One of the caller's own.
  static Result<std::shared_ptr<MemoryPool>> make(const Driver& driver, int ordinal,
                                                  const Limits& limits);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  // Zeroed; it may outlive every communicator. Waits for its zeros only, which are there already
  // where the memory was lent before.
  Result<khorus_memory> lend(size_t bytes);
  // The device may use what is lent now for longer than anybody can wait: it is not lent again, but
  // goes back to the driver, which waits for the device.
  void distrust_lent();
  // What is not lent.
  size_t kept_bytes() const;

 private:
  struct Block {
    CUdeviceptr memory = 0;
    size_t bytes = 0;
    CUevent zeroed = nullptr;
  };
  struct Loan;

  MemoryPool(std::unique_ptr<PrimaryContext> context, CUstream zeroing, const Limits& limits)
      : context_(std::move(context)),
        driver_(context_->driver()),
        zeroing_(zeroing),
        limits_(limits) {}
  // The smallest of those kept that is at least as large, and not much larger.
  std::optional<Block> take(size_t bytes);
  // From the driver.
  Result<Block> allocate(size_t bytes);
  void give_back(const Block& block, uint64_t loan);
  CUresult zero(const Block& block) const;
  CUresult wait_for_zeros(const Block& block) const;
  void free(const Block& block) const;
  void free(const std::list<Block>& blocks) const;

  const std::unique_ptr<PrimaryContext> context_;
  const Driver& driver_;
  const CUstream zeroing_;
  const Limits limits_;
  mutable std::mutex mutex_;  // of what follows
  std::list<Block> kept_;     // the last one came last
  size_t kept_bytes_ = 0;
  uint64_t loans_ = 0;       // counted from 1
  uint64_t distrusted_ = 0;  // the last loan that is
};

}  // namespace khorus::backends::nccl
