// See device.h.
#include "torch_plugin/device.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <list>
#include <mutex>

#include "khorus/device.h"

namespace khorus::torch {
namespace {

std::atomic<at::DeviceType> gpu_type{at::kCUDA};

// Memory that nobody has any more, until the streams that used it have passed. It is looked at
// whenever some is added: there is no thread for it. Never destroyed: at the end of the process the
// driver may be gone before it.
class Retired {
 public:
  static Retired& all() {
    static Retired* const one = new Retired;
    return *one;
  }

  void add(std::shared_ptr<void> memory, c10::Event last_use) {
    std::list<Entry> done;  // lets go of it without the lock
    const std::lock_guard lock(mutex_);
    for (auto it = entries_.begin(); it != entries_.end();) {
      const auto entry = it++;
      if (entry->last_use.query()) done.splice(done.end(), entries_, entry);
    }
    entries_.push_back({std::move(memory), std::move(last_use)});
  }

 private:
  struct Entry {
    std::shared_ptr<void> memory;
    c10::Event last_use;
  };
  std::mutex mutex_;
  std::list<Entry> entries_;
};

void retire(std::shared_ptr<void> memory, const c10::Stream& stream) noexcept {
  auto* const kept = new std::shared_ptr<void>(std::move(memory));
  try {
    c10::Event last_use(stream.device_type());
    last_use.record(stream);
    Retired::all().add(*kept, std::move(last_use));
    delete kept;
  } catch (const std::exception&) {
    // The device has failed, or goes with the process: then nobody can say that it is done with
    // the memory, which stays.
  }
}

}  // namespace

bool is_gpu(const at::Device& device) { return device.type() == gpu_type.load(); }

void count_as_gpu(at::DeviceType type) { gpu_type.store(type); }

Device device_of(const at::Device& device) {
  if (!is_gpu(device)) return {};
  return {DeviceKind::kCuda, device.index()};
}

at::Device device_of(const Device& device) {
  if (device.kind == DeviceKind::kCpu) return at::kCPU;
  return {gpu_type.load(), static_cast<at::DeviceIndex>(device.index)};
}

c10::Stream current_stream(const at::Device& gpu) {
  return c10::impl::VirtualGuardImpl(gpu.type()).getStream(gpu);
}

c10::Event record_now(const at::Device& gpu, c10::EventFlag flag) {
  c10::Event event(gpu.type(), flag);
  event.record(current_stream(gpu));
  return event;
}

std::shared_ptr<void> kept_for_stream(std::shared_ptr<void> memory, const at::Device& gpu) {
  void* const data = memory.get();
  return {data, [memory = std::move(memory), stream = current_stream(gpu)](void*) mutable {
            retire(std::move(memory), stream);
          }};
}

Status settle(const std::vector<WorkPtr>& works, const at::Device& device) {
  if (!is_gpu(device)) return wait_all(works);
  void* const stream = current_stream(device).native_handle();
  Status first;
  for (const WorkPtr& work : works) {
    Status status = wait_on_stream(*work, stream);
    if (first.ok() && !status.ok()) first = std::move(status);
  }
  return first;
}

}  // namespace khorus::torch
