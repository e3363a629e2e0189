// See memory_pool.h; "Memory Management" of the "CUDA Driver API".
#include "backends/nccl/memory_pool.h"

#include <algorithm>
#include <bit>
#include <map>
#include <string>
#include <utility>

namespace khorus::backends::nccl {
namespace {

// Sizes are rounded up by at most an eighth, so that results of nearly one size share blocks.
size_t rounded(size_t bytes) {
  const size_t unit = std::max(size_t{512}, std::bit_floor(bytes) / 8);
  return (std::max(bytes, size_t{1}) + unit - 1) / unit * unit;
}

}  // namespace

struct MemoryPool::Loan {
  std::shared_ptr<MemoryPool> pool;
  Block block;
  uint64_t number;
};

Result<std::shared_ptr<MemoryPool>> MemoryPool::of(const Driver& driver, int ordinal) {
  struct Pools {
    std::mutex mutex;
    std::map<int, std::weak_ptr<MemoryPool>> by_ordinal;
  };
  // Never destroyed: memory may come back while the process ends.
  static Pools* const pools = new Pools;
  const std::scoped_lock lock(pools->mutex);
  std::weak_ptr<MemoryPool>& known = pools->by_ordinal[ordinal];
  if (std::shared_ptr<MemoryPool> pool = known.lock()) return pool;
  Result<std::shared_ptr<MemoryPool>> made = make(driver, ordinal, Limits());
  if (made) known = *made;
  return made;
}

Result<std::shared_ptr<MemoryPool>> MemoryPool::make(const Driver& driver, int ordinal,
                                                     const Limits& limits) {
  Result<std::unique_ptr<PrimaryContext>> context = PrimaryContext::of(driver, ordinal);
  if (!context) return context.status();
  const DeviceScope scope(driver, (*context)->get());
  const Result<CUstream> zeroing = (*context)->make_stream();
  if (!zeroing) return zeroing.status();
  return std::shared_ptr<MemoryPool>(new MemoryPool(std::move(*context), *zeroing, limits));
}

MemoryPool::~MemoryPool() {
  const DeviceScope scope(driver_, context_->get());
  free(kept_);
  driver_.stream_destroy(zeroing_);
}

Result<khorus_memory> MemoryPool::lend(size_t bytes) {
  const DeviceScope scope(driver_, context_->get());
  const size_t size = rounded(bytes);
  std::optional<Block> block = take(size);
  if (!block) {
    const Result<Block> made = allocate(size);
    if (!made) return made.status();
    block = *made;
  }
  if (Status status = context_->status_of(wait_for_zeros(*block), "cuStreamSynchronize");
      !status.ok()) {
    free(*block);
    return status;
  }
  auto loan = std::make_unique<Loan>(Loan{shared_from_this(), *block, 0});
  {
    const std::scoped_lock lock(mutex_);
    loan->number = ++loans_;
  }
  khorus_memory memory{};
  memory.struct_size = sizeof memory;
  memory.data = reinterpret_cast<void*>(block->memory);
  memory.release = [](void* owner) {
    const std::unique_ptr<Loan> over(static_cast<Loan*>(owner));
    over->pool->give_back(over->block, over->number);
  };
  memory.owner = loan.release();
  return memory;
}

std::optional<MemoryPool::Block> MemoryPool::take(size_t bytes) {
  const std::scoped_lock lock(mutex_);
  auto best = kept_.end();
  for (auto it = kept_.begin(); it != kept_.end(); ++it) {
    const bool fits = it->bytes >= bytes && it->bytes <= 2 * bytes;
    if (fits && (best == kept_.end() || it->bytes < best->bytes)) best = it;
  }
  if (best == kept_.end()) return std::nullopt;
  const Block block = *best;
  kept_bytes_ -= block.bytes;
  kept_.erase(best);
  return block;
}

Result<MemoryPool::Block> MemoryPool::allocate(size_t bytes) {
  Block block{.bytes = bytes};
  CUresult result = driver_.mem_alloc(&block.memory, bytes);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    std::list<Block> all;
    {
      const std::scoped_lock lock(mutex_);
      all.swap(kept_);
      kept_bytes_ = 0;
    }
    free(all);
    if (!all.empty()) result = driver_.mem_alloc(&block.memory, bytes);
  }
  if (result != CUDA_SUCCESS) return context_->status_of(result, "cuMemAlloc");
  Status status = context_->status_of(driver_.event_create(&block.zeroed, CU_EVENT_DISABLE_TIMING),
                                      "cuEventCreate");
  if (status.ok()) status = context_->status_of(zero(block), "cuMemsetD8Async");
  if (status.ok()) return block;
  free(block);
  return status;
}

void MemoryPool::give_back(const Block& block, uint64_t loan) {
  const DeviceScope scope(driver_, context_->get());
  bool is_kept = block.bytes <= limits_.bytes;
  if (is_kept) {
    const std::scoped_lock lock(mutex_);
    is_kept = loan > distrusted_;
  }
  if (!is_kept || zero(block) != CUDA_SUCCESS) {
    free(block);
    return;
  }
  std::list<Block> over;  // the limits
  {
    const std::scoped_lock lock(mutex_);
    kept_.push_back(block);
    kept_bytes_ += block.bytes;
    while (kept_bytes_ > limits_.bytes || kept_.size() > limits_.blocks) {
      kept_bytes_ -= kept_.front().bytes;
      over.splice(over.end(), kept_, kept_.begin());
    }
  }
  free(over);
}

void MemoryPool::distrust_lent() {
  const std::scoped_lock lock(mutex_);
  distrusted_ = loans_;
}

size_t MemoryPool::kept_bytes() const {
  const std::scoped_lock lock(mutex_);
  return kept_bytes_;
}

CUresult MemoryPool::zero(const Block& block) const {
  const CUresult result = driver_.mem_set(block.memory, 0, block.bytes, zeroing_);
  return result == CUDA_SUCCESS ? driver_.event_record(block.zeroed, zeroing_) : result;
}

CUresult MemoryPool::wait_for_zeros(const Block& block) const {
  if (driver_.event_query(block.zeroed) == CUDA_SUCCESS) return CUDA_SUCCESS;
  return driver_.stream_synchronize(zeroing_);
}

void MemoryPool::free(const Block& block) const {
  if (block.zeroed != nullptr) {
    wait_for_zeros(block);
    driver_.event_destroy(block.zeroed);
  }
  driver_.mem_free(block.memory);
}

void MemoryPool::free(const std::list<Block>& blocks) const {
  for (const Block& block : blocks) free(block);
}

}  // namespace khorus::backends::nccl
