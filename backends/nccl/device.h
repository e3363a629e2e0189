// Device: what a communicator has on its GPU: the primary context, a stream with the highest
// priority for the operations, one that tells Progress, events, and memory.
//
// Thread rule: events and lending() from any thread; the rest by the thread that runs the
// operations. Every method REQUIRES that context() is current (DeviceScope).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "backends/nccl/driver.h"
#include "backends/nccl/memory_pool.h"
#include "backends/nccl/primary_context.h"
#include "backends/nccl/progress.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

class Device {
 public:
  // Needs no context.
  static Result<std::unique_ptr<Device>> open(const Driver& driver, int ordinal);
  // REQUIRES: nothing is under way.
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const Driver& driver() const { return driver_; }
  CUcontext context() const { return context_->get(); }
  CUstream stream() const { return stream_; }

  // Whether an event knows when it came, which costs the device a little.
  enum class Timing : uint8_t { kOff, kOn };
  // An event without a past, and its way back.
  Result<CUevent> take_event(Timing timing = Timing::kOff);
  void give_back(CUevent event, Timing timing = Timing::kOff);
  // An event for what is in the stream now.
  Result<CUevent> record(CUstream stream, Timing timing = Timing::kOff);
  // When the event has come, `progress` knows that operation `number` is done.
  Status tell(CUevent event, const std::shared_ptr<Progress>& progress, uint64_t number);

  Status copy(void* to, const void* from, size_t bytes);
  Status copy_to_host(void* to, const void* from, size_t bytes);
  Status copy_from_host(void* to, const void* from, size_t bytes);
  // Runs on a thread of the driver's when the stream comes there; must not call CUDA.
  Status call(void (*function)(void* data), void* data);

  // The memory that callers get.
  MemoryPool& lending() const { return *lending_; }

  // kScratchBytes of the device's memory and of pinned memory of the host, made when first asked
  // for. Used in the order of the stream.
  static constexpr size_t kScratchBytes = size_t{8} << 20;
  Result<std::byte*> scratch();
  Result<std::byte*> host_scratch();
  // At least so many bytes for tensors that travel together; used in the order of the stream.
  // Grows, and keeps what it had: the device may be using it.
  Result<std::byte*> staging(size_t bytes);

  // Ok for CUDA_SUCCESS.
  Status status_of(CUresult result, const char* what) const {
    return context_->status_of(result, what);
  }

 private:
  Device(std::unique_ptr<PrimaryContext> context, std::shared_ptr<MemoryPool> lending)
      : context_(std::move(context)), driver_(context_->driver()), lending_(std::move(lending)) {}

  const std::unique_ptr<PrimaryContext> context_;
  const Driver& driver_;
  const std::shared_ptr<MemoryPool> lending_;
  CUstream stream_ = nullptr;
  CUstream telling_ = nullptr;
  CUdeviceptr scratch_ = 0;
  void* host_scratch_ = nullptr;
  std::vector<CUdeviceptr> stagings_;  // the last one is the largest
  size_t staging_bytes_ = 0;           // of it
  std::mutex mutex_;
  std::vector<CUevent> events_;   // all
  std::vector<CUevent> idle_[2];  // those not taken, by Timing
};

}  // namespace khorus::backends::nccl
