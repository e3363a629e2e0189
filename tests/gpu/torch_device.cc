// See torch_device.h.
#include "tests/gpu/torch_device.h"

#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/double/machine.h"
#include "tests/gpu/torch_device_parts.h"

namespace khorus::gpu_double {
namespace {

std::atomic<uint64_t> waits{0};

at::Device here(int device) { return {kDevice, static_cast<at::DeviceIndex>(device)}; }

void check(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) violation(std::string(what) + " failed");
}

// ---- devices and streams

thread_local int the_device = 0;

}  // namespace

DeviceScope::DeviceScope(int device) {
  CUcontext context = nullptr;
  check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
  check(cuCtxPushCurrent(context), "cuCtxPushCurrent");
}
DeviceScope::~DeviceScope() {
  CUcontext ignored = nullptr;
  cuCtxPopCurrent(&ignored);
}

int current_device() { return the_device; }
int exchange_device(int device) { return std::exchange(the_device, device); }

namespace {

// By device, by id; never destroyed.
struct Streams {
  std::mutex mutex;
  std::map<int, std::vector<CUstream>> of_device;
};
Streams& streams() {
  static Streams* const all = new Streams;
  return *all;
}
thread_local std::map<int, c10::StreamId> current_streams;  // by device; else the default, 0

c10::StreamId new_stream(int device) {
  const DeviceScope scope(device);
  Streams& all = streams();
  const std::scoped_lock lock(all.mutex);
  CUstream stream = nullptr;
  check(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0), "a stream");
  all.of_device[device].push_back(stream);
  return static_cast<c10::StreamId>(all.of_device[device].size()) - 1;
}

CUstream handle_of(int device, c10::StreamId id) {
  {
    Streams& all = streams();
    const std::scoped_lock lock(all.mutex);
    const auto& known = all.of_device[device];
    if (static_cast<size_t>(id) < known.size()) return known[static_cast<size_t>(id)];
  }
  new_stream(device);  // the default one, when it is first used
  return handle_of(device, id);
}
CUstream handle_of(const c10::Stream& stream) {
  return handle_of(stream.device_index(), stream.id());
}

}  // namespace

CUstream current_handle(int device) { return handle_of(device, current_streams[device]); }

void host_waits_for(CUstream stream, int device) {
  const DeviceScope scope(device);
  ++waits;
  check(cuStreamSynchronize(stream), "cuStreamSynchronize");
}

namespace {

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  at::DeviceType type() const override { return kDevice; }
  at::Device exchangeDevice(at::Device device) const override {
    return here(exchange_device(device.index()));
  }
  at::Device getDevice() const override { return here(current_device()); }
  void setDevice(at::Device device) const override { exchange_device(device.index()); }
  void uncheckedSetDevice(at::Device device) const noexcept override {
    exchange_device(device.index());
  }
  at::DeviceIndex deviceCount() const noexcept override {
    int count = 0;
    cuDeviceGetCount(&count);
    return static_cast<at::DeviceIndex>(count);
  }

  c10::Stream getStream(at::Device device) const override {
    const int index = device.has_index() ? device.index() : current_device();
    return stream(index, current_streams[index]);
  }
  c10::Stream getDefaultStream(at::Device device) const override {
    return stream(device.index(), 0);
  }
  c10::Stream getStreamFromGlobalPool(at::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream getNewStream(at::Device device, int) const override {
    handle_of(device.index(), 0);
    return stream(device.index(), new_stream(device.index()));
  }
  c10::Stream exchangeStream(c10::Stream next) const override {
    c10::StreamId& current = current_streams[next.device_index()];
    return stream(next.device_index(), std::exchange(current, next.id()));
  }
  void* getStreamNativeHandle(const c10::Stream given) const override { return handle_of(given); }
  bool queryStream(const c10::Stream&) const override { return false; }
  void synchronizeStream(const c10::Stream& given) const override {
    host_waits_for(handle_of(given), given.device_index());
  }
  void synchronizeDevice(at::DeviceIndex device) const override {
    host_waits_for(current_handle(device), device);
  }

  // An event is the driver's own, for the engine. The double has no clock, so this keeps the times.
  void record(void** event, const c10::Stream& given, const at::DeviceIndex,
              const c10::EventFlag) const override {
    const DeviceScope scope(given.device_index());
    if (*event == nullptr) {
      CUevent made = nullptr;
      check(cuEventCreate(&made, 0), "cuEventCreate");
      *event = made;
    }
    const auto handle = static_cast<CUevent>(*event);
    check(cuEventRecord(handle, handle_of(given)), "cuEventRecord");
    const std::scoped_lock lock(times_mutex());
    times()[handle] = std::chrono::steady_clock::now();
  }
  void destroyEvent(void* event, const at::DeviceIndex) const noexcept override {
    if (event == nullptr) return;
    const std::scoped_lock lock(times_mutex());
    times().erase(static_cast<CUevent>(event));
    cuEventDestroy(static_cast<CUevent>(event));
  }
  void block(void* event, const c10::Stream& given) const override {
    const DeviceScope scope(given.device_index());
    check(cuStreamWaitEvent(handle_of(given), static_cast<CUevent>(event), 0), "an event wait");
  }
  bool queryEvent(void* event) const override {
    return event == nullptr || cuEventQuery(static_cast<CUevent>(event)) == CUDA_SUCCESS;
  }
  void synchronizeEvent(void* event) const override {
    ++waits;
    check(cuEventSynchronize(static_cast<CUevent>(event)), "cuEventSynchronize");
  }
  double elapsedTime(void* first, void* second, const at::DeviceIndex) const override {
    const std::scoped_lock lock(times_mutex());
    const auto passed =
        times().at(static_cast<CUevent>(second)) - times().at(static_cast<CUevent>(first));
    return std::chrono::duration<double, std::milli>(passed).count();
  }

 private:
  using Times = std::map<CUevent, std::chrono::steady_clock::time_point>;
  static Times& times() {
    static Times* const all = new Times;
    return *all;
  }
  static std::mutex& times_mutex() {
    static std::mutex* const one = new std::mutex;
    return *one;
  }
  static c10::Stream stream(int device, c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, here(device), id);
  }
};

// ---- memory

class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const int device = current_device();
    const at::Device place = here(device);
    if (bytes == 0) return {nullptr, nullptr, &nothing, place};
    constexpr size_t kUnit = 512;
    auto* block =
        new Block{{device, current_streams[device], (bytes + kUnit - 1) / kUnit * kUnit}, nullptr};
    const std::scoped_lock lock(mutex());
    auto& free = cache()[block->key];
    if (free.empty()) {
      const DeviceScope scope(device);
      CUdeviceptr address = 0;
      check(cuMemAlloc(&address, block->key.bytes), "cuMemAlloc");
      block->address = reinterpret_cast<void*>(address);
    } else {
      block->address = free.back();
      free.pop_back();
    }
    return {block->address, block, &give_back, place};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, size_t) const override {
    violation("the allocator is to copy, which a tensor's copy_ is for");
  }

 private:
  struct Key {
    int device;
    c10::StreamId stream;
    size_t bytes;
    auto operator<=>(const Key&) const = default;
  };
  struct Block {
    Key key;
    void* address;
  };
  using Cache = std::map<Key, std::vector<void*>>;
  static Cache& cache() {
    static Cache* const all = new Cache;
    return *all;
  }
  static std::mutex& mutex() {
    static std::mutex* const one = new std::mutex;
    return *one;
  }
  static void nothing(void*) {}
  static void give_back(void* context) {
    auto* const block = static_cast<Block*>(context);
    {
      const std::scoped_lock lock(mutex());
      cache()[block->key].push_back(block->address);
    }
    delete block;
  }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  at::DeviceIndex deviceCount() const override { return Guard().deviceCount(); }
  void setCurrentDevice(at::DeviceIndex device) const override { exchange_device(device); }
  at::DeviceIndex getCurrentDevice() const override { return here(current_device()).index(); }
  at::DeviceIndex exchangeDevice(at::DeviceIndex device) const override {
    return here(exchange_device(device)).index();
  }
  at::DeviceIndex maybeExchangeDevice(at::DeviceIndex device) const override {
    return exchangeDevice(device);
  }
  const at::Generator& getDefaultGenerator(at::DeviceIndex device) const override {
    return default_generator(device < 0 ? current_device() : device);
  }
  // Copies read the host's memory before they return, so it needs no other.
  at::Allocator* getPinnedMemoryAllocator() const override { return at::getCPUAllocator(); }
};

}  // namespace

c10::Allocator& device_allocator() {
  static auto* const one = new Allocator;
  return *one;
}

void register_torch_device() {
  static const Hooks* const hooks = [] {
    auto* const made = new Hooks;
    static const Guard* const guard = new Guard;
    c10::register_privateuse1_backend("gpudouble");
    c10::impl::device_guard_impl_registry[static_cast<size_t>(kDevice)].store(guard);
    at::RegisterPrivateUse1HooksInterface(made);
    at::SetAllocator(kDevice, &device_allocator());
    return made;
  }();
  static_cast<void>(hooks);
}

void* driver_stream(int device, int64_t stream) { return handle_of(device, stream); }

void call_in_stream(int device, void (*function)(void*), void* data) {
  const DeviceScope scope(device);
  check(cuLaunchHostFunc(current_handle(device), function, data), "cuLaunchHostFunc");
}

uint64_t host_waits() { return waits.load(); }

}  // namespace khorus::gpu_double
