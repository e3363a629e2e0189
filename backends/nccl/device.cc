// See device.h.
#include "backends/nccl/device.h"

#include <algorithm>
#include <string>
#include <utility>

namespace khorus::backends::nccl {
namespace {

CUdeviceptr address(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

// What the host function of tell() carries to Progress.
struct News {
  std::shared_ptr<Progress> progress;
  uint64_t number;
};

}  // namespace

Result<std::unique_ptr<Device>> Device::open(const Driver& driver, int ordinal) {
  Result<std::unique_ptr<PrimaryContext>> context = PrimaryContext::of(driver, ordinal);
  if (!context) return context.status();
  Result<std::shared_ptr<MemoryPool>> lending = MemoryPool::of(driver, ordinal);
  if (!lending) return lending.status();
  std::unique_ptr<Device> device(new Device(std::move(*context), std::move(*lending)));
  const DeviceScope scope(driver, device->context());
  for (CUstream* stream : {&device->stream_, &device->telling_}) {
    const Result<CUstream> made = device->context_->make_stream();
    if (!made) return made.status();
    *stream = *made;
  }
  return device;
}

Device::~Device() {
  const DeviceScope scope(driver_, context());
  for (const CUevent event : events_) driver_.event_destroy(event);
  if (stream_ != nullptr) driver_.stream_destroy(stream_);
  if (telling_ != nullptr) driver_.stream_destroy(telling_);
  if (scratch_ != 0) driver_.mem_free(scratch_);
  for (const CUdeviceptr staging : stagings_) driver_.mem_free(staging);
  if (host_scratch_ != nullptr) driver_.mem_free_host(host_scratch_);
}

Result<CUevent> Device::take_event(Timing timing) {
  const std::scoped_lock lock(mutex_);
  std::vector<CUevent>& idle = idle_[static_cast<size_t>(timing)];
  if (idle.empty()) {
    CUevent event = nullptr;
    const auto flags = timing == Timing::kOn ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING;
    Status status = status_of(driver_.event_create(&event, flags), "cuEventCreate");
    if (!status.ok()) return status;
    events_.push_back(event);
    return event;
  }
  const CUevent event = idle.back();
  idle.pop_back();
  return event;
}

void Device::give_back(CUevent event, Timing timing) {
  const std::scoped_lock lock(mutex_);
  idle_[static_cast<size_t>(timing)].push_back(event);
}

Result<CUevent> Device::record(CUstream stream, Timing timing) {
  Result<CUevent> event = take_event(timing);
  if (!event) return event;
  if (Status status = status_of(driver_.event_record(*event, stream), "cuEventRecord");
      !status.ok()) {
    return status;
  }
  return event;
}

Status Device::tell(CUevent event, const std::shared_ptr<Progress>& progress, uint64_t number) {
  Status status = status_of(driver_.stream_wait_event(telling_, event, 0), "cuStreamWaitEvent");
  if (!status.ok()) return status;
  auto news = std::make_unique<News>(News{progress, number});
  const auto deliver = [](void* data) {
    const std::unique_ptr<News> brought(static_cast<News*>(data));
    brought->progress->done(brought->number);
  };
  status = status_of(driver_.launch_host_func(telling_, deliver, news.get()), "cuLaunchHostFunc");
  if (status.ok()) static_cast<void>(news.release());  // deliver() has it
  return status;
}

Status Device::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0 || to == from) return {};
  return status_of(driver_.memcpy_device_to_device(address(to), address(from), bytes, stream_),
                   "cuMemcpyDtoDAsync");
}

Status Device::copy_to_host(void* to, const void* from, size_t bytes) {
  return status_of(driver_.memcpy_device_to_host(to, address(from), bytes, stream_),
                   "cuMemcpyDtoHAsync");
}

Status Device::copy_from_host(void* to, const void* from, size_t bytes) {
  return status_of(driver_.memcpy_host_to_device(address(to), from, bytes, stream_),
                   "cuMemcpyHtoDAsync");
}

Status Device::call(void (*function)(void* data), void* data) {
  return status_of(driver_.launch_host_func(stream_, function, data), "cuLaunchHostFunc");
}

Result<std::byte*> Device::scratch() {
  if (scratch_ == 0) {
    Status status = status_of(driver_.mem_alloc(&scratch_, kScratchBytes), "cuMemAlloc");
    if (!status.ok()) return status;
  }
  return reinterpret_cast<std::byte*>(scratch_);
}

Result<std::byte*> Device::host_scratch() {
  if (host_scratch_ == nullptr) {
    Status status =
        status_of(driver_.mem_host_alloc(&host_scratch_, kScratchBytes, 0), "cuMemHostAlloc");
    if (!status.ok()) return status;
  }
  return static_cast<std::byte*>(host_scratch_);
}

Result<std::byte*> Device::staging(size_t bytes) {
  if (bytes > staging_bytes_) {
    const size_t larger = std::max({bytes, 2 * staging_bytes_, kScratchBytes});
    CUdeviceptr staging = 0;
    Status status = status_of(driver_.mem_alloc(&staging, larger), "cuMemAlloc");
    if (!status.ok()) return status;
    stagings_.push_back(staging);
    staging_bytes_ = larger;
  }
  return reinterpret_cast<std::byte*>(stagings_.back());
}

}  // namespace khorus::backends::nccl
