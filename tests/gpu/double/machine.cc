// See machine.h.
#include "tests/gpu/double/machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "tests/gpu/double/shadow.h"

namespace khorus::gpu_double {

class Occurrence {
 public:
  void come() {
    const std::scoped_lock lock(mutex_);
    came_ = std::chrono::steady_clock::now();
    come_ = true;
    changed_.notify_all();
  }
  bool has_come() {
    const std::scoped_lock lock(mutex_);
    return come_;
  }
  // REQUIRES: it has.
  std::chrono::steady_clock::time_point came() {
    const std::scoped_lock lock(mutex_);
    return came_;
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return come_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool come_ = false;
  std::chrono::steady_clock::time_point came_;
};

class Stream {
 public:
  Stream(int id, std::string name) : id_(id), name_(std::move(name)) {}
  int id() const { return id_; }
  const std::string& name() const { return name_; }

  void push(std::function<void()> task) {
    const std::scoped_lock lock(mutex_);
    tasks_.push_back(std::move(task));
    changed_.notify_one();
  }
  // The stream's thread: until an empty task comes.
  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !tasks_.empty(); });
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      if (!task) return;
      task();
    }
  }

  Clock clock;  // guarded by Machine::mutex

 private:
  const int id_;
  const std::string name_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
};

namespace {

struct Allocation {
  size_t bytes;
  std::byte* view;
  bool on_device;
  Shadow shadow;
};

// Never destroyed: streams may still work while the process ends.
struct Machine {
  std::mutex mutex;
  int streams = 0;
  Clock host;  // what the host has seen complete
  std::map<const std::byte*, Allocation> memory;
  struct Upload {
    const std::byte* from;
    size_t bytes;
  };
  std::map<const std::byte*, Upload> uploads;  // by where they go, the last ones
  size_t device_bytes = 0;                     // allocated
  // Freed on the device, the last ones; nothing else gets these addresses.
  std::deque<std::pair<std::byte*, size_t>> freed;
};

Machine& machine() {
  static Machine* const one = new Machine;
  return *one;
}

void join(Clock& clock, const Clock& other) {
  for (const auto& [stream, tick] : other) clock[stream] = std::max(clock[stream], tick);
}

// The allocation that holds all of it; null if none does. REQUIRES: the lock.
std::pair<const std::byte* const, Allocation>* find_memory(const void* address, size_t bytes) {
  auto& memory = machine().memory;
  const auto* const begin = static_cast<const std::byte*>(address);
  auto it = memory.upper_bound(begin);
  if (it == memory.begin()) return nullptr;
  --it;
  return begin + bytes <= it->first + it->second.bytes ? &*it : nullptr;
}

size_t total_device_bytes() {
  const char* const text = std::getenv("KHORUS_DOUBLE_MEMORY");
  return text == nullptr ? size_t{64} << 30 : std::strtoull(text, nullptr, 10);
}

// How many addresses that were freed are kept from others.
constexpr size_t kQuarantine = 1000;

// Frees it, and reserves the address. REQUIRES: the lock.
void quarantine(std::byte* address, size_t bytes) {
  Machine& all = machine();
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (::mmap(address, bytes, PROT_NONE, flags, -1, 0) == MAP_FAILED) {
    violation("freed memory cannot be reserved");
  }
  all.freed.emplace_back(address, bytes);
  if (all.freed.size() <= kQuarantine) return;
  ::munmap(all.freed.front().first, all.freed.front().second);
  all.freed.pop_front();
}

// REQUIRES: the lock.
bool was_freed(const void* address) {
  const auto* const at = static_cast<const std::byte*>(address);
  const auto& freed = machine().freed;
  return std::any_of(freed.begin(), freed.end(), [at](const auto& range) {
    return at >= range.first && at < range.first + range.second;
  });
}

void* add_memory(std::byte* address, Allocation allocation) {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  if (allocation.on_device) all.device_bytes += allocation.bytes;
  all.memory.insert_or_assign(address, std::move(allocation));
  return address;
}

}  // namespace

void violation(const std::string& what) {
  std::fprintf(stderr, "GPU double: %s\n", what.c_str());
  std::fflush(stderr);
  std::abort();
}

StreamPtr make_stream(const std::string& name) {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  const int id = ++all.streams;
  auto stream = std::make_shared<Stream>(id, name + " " + std::to_string(id));
  std::thread([stream] { stream->work(); }).detach();
  return stream;
}

void end_stream(const StreamPtr& stream) { stream->push({}); }

void enqueue(const StreamPtr& stream, const std::string& what, const std::vector<Access>& accesses,
             std::function<void()> task) {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  join(stream->clock, all.host);
  const uint64_t tick = ++stream->clock[stream->id()];
  for (const Access& access : accesses) {
    if (access.bytes == 0) continue;
    auto* const found = find_memory(access.address, access.bytes);
    if (found == nullptr) continue;
    const size_t begin =
        static_cast<size_t>(static_cast<const std::byte*>(access.address) - found->first);
    const Shadow::Use use{stream->id(), tick, what + " on " + stream->name()};
    const std::string complaint =
        access.writes ? found->second.shadow.write(begin, access.bytes, use, stream->clock)
                      : found->second.shadow.read(begin, access.bytes, use, stream->clock);
    if (!complaint.empty()) violation(complaint);
  }
  stream->push(std::move(task));
}

void record(const StreamPtr& stream, Event& event) {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  join(stream->clock, all.host);
  event.clock = stream->clock;
  event.occurrence = std::make_shared<Occurrence>();
  stream->push([occurrence = event.occurrence] { occurrence->come(); });
}

void wait_in_stream(const StreamPtr& stream, const Event& event) {
  if (event.occurrence == nullptr) return;
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  join(stream->clock, event.clock);
  stream->push([occurrence = event.occurrence] { occurrence->wait(); });
}

bool host_sees(const Event& event) {
  if (event.occurrence == nullptr) return true;
  if (!event.occurrence->has_come()) return false;
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  join(all.host, event.clock);
  return true;
}

std::optional<double> milliseconds_between(const Event& from, const Event& to) {
  for (const Event* event : {&from, &to}) {
    if (event->occurrence == nullptr || !event->occurrence->has_come()) return std::nullopt;
  }
  return std::chrono::duration<double, std::milli>(to.occurrence->came() - from.occurrence->came())
      .count();
}

void host_waits(const Event& event) {
  if (event.occurrence != nullptr) event.occurrence->wait();
  host_sees(event);
}

void* allocate_device(size_t bytes) {
  const size_t size = std::max<size_t>(bytes, 1);
  if (size > device_memory().free) return nullptr;
  const int file = ::memfd_create("khorus-gpu-double", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, static_cast<off_t>(size)) != 0) return nullptr;
  void* const address = ::mmap(nullptr, size, PROT_NONE, MAP_SHARED, file, 0);
  void* const view = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  ::close(file);
  if (address == MAP_FAILED || view == MAP_FAILED) return nullptr;
  std::memset(view, 0xa5, std::min<size_t>(size, size_t{64} << 10));  // nobody's values
  return add_memory(static_cast<std::byte*>(address),
                    {size, static_cast<std::byte*>(view), true, Shadow(size)});
}

DeviceMemory device_memory() {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  const size_t total = total_device_bytes();
  return {total - std::min(total, all.device_bytes), total};
}

void* allocate_pinned(size_t bytes) {
  const size_t size = std::max<size_t>(bytes, 1);
  auto* const address = static_cast<std::byte*>(std::malloc(size));
  if (address == nullptr) return nullptr;
  return add_memory(address, {size, address, false, Shadow(size)});
}

bool free_memory(void* address) {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  const auto it = all.memory.find(static_cast<std::byte*>(address));
  if (it == all.memory.end()) return false;
  const std::string complaint = it->second.shadow.free(all.host);
  if (!complaint.empty()) violation(complaint);
  if (it->second.on_device) {
    ::munmap(it->second.view, it->second.bytes);
    quarantine(static_cast<std::byte*>(address), it->second.bytes);
    all.device_bytes -= it->second.bytes;
  } else {
    std::free(address);
  }
  all.memory.erase(it);
  return true;
}

std::byte* view_of(const void* address, size_t bytes) {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  auto* const found = find_memory(address, bytes);
  if (found == nullptr) return static_cast<std::byte*>(const_cast<void*>(address));
  return found->second.view + (static_cast<const std::byte*>(address) - found->first);
}

void note_upload(const void* to, const void* from, size_t bytes) {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  const auto* const found = find_memory(from, bytes);
  if (found == nullptr || found->second.on_device) return;
  all.uploads[static_cast<const std::byte*>(to)] = {static_cast<const std::byte*>(from), bytes};
}

const std::byte* uploaded_from(const std::string& what, const void* address, size_t bytes) {
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  const auto* const begin = static_cast<const std::byte*>(address);
  const auto after = all.uploads.upper_bound(begin);
  if (after != all.uploads.begin()) {
    const auto& [to, upload] = *std::prev(after);
    const size_t offset = static_cast<size_t>(begin - to);
    if (offset + bytes <= upload.bytes && find_memory(upload.from, upload.bytes) != nullptr) {
      return upload.from + offset;
    }
  }
  violation(what + " was given a table that was not copied there from pinned memory");
}

void expect_device_memory(const std::string& what, const void* address, size_t bytes) {
  if (bytes == 0) return;
  Machine& all = machine();
  const std::scoped_lock lock(all.mutex);
  auto* const found = find_memory(address, bytes);
  if (found == nullptr && was_freed(address)) {
    violation(what + " uses memory of the device that was freed");
  }
  if (found == nullptr || !found->second.on_device) {
    violation(what + " was given " + std::to_string(bytes) +
              " bytes that are not memory of the device: an illegal address");
  }
}

}  // namespace khorus::gpu_double
