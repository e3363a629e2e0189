// The machine behind the double of CUDA's driver: streams that really run asynchronously, events,
// and memory that knows who may touch it when.
//
// Every operation on a stream gets a vector clock when it is enqueued (Lamport's happened-before):
// what its stream has done before, what the events that the stream waited for stand for, and what
// the host has seen complete. Every byte of device memory remembers its last write and the reads
// since. An operation that touches bytes without being ordered after their last write (and, to
// write, after the reads) ends the process with a sentence, whether or not it would have gone well
// this time. So a missing event wait is found in every run, not in an unlucky one.
//
// Device memory is mapped twice: at the address that programs get, without permission, so that the
// host crashes where it would on a GPU; and where the double itself reads and writes. The addresses
// that were freed last are nobody's for a while: who still uses them is told so.
//
// Thread rule: every function from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#define KHORUS_DOUBLE_API __attribute__((visibility("default")))

namespace khorus::gpu_double {

// By stream number: how many of its operations are known to be done before.
using Clock = std::map<int, uint64_t>;

struct Access {
  const void* address;
  size_t bytes;
  bool writes;
};

class Stream;
using StreamPtr = std::shared_ptr<Stream>;

// A moment in a stream that others can wait for.
class Occurrence;
struct Event {
  Clock clock;
  std::shared_ptr<Occurrence> occurrence;  // null: never recorded, which counts as come
};

// Ends the process: the program under test has done what a GPU would punish, or hide.
[[noreturn]] KHORUS_DOUBLE_API void violation(const std::string& what);

KHORUS_DOUBLE_API StreamPtr make_stream(const std::string& name);
// What is in it is still done.
void end_stream(const StreamPtr& stream);
// Runs `task` on the stream's thread after what is in it.
KHORUS_DOUBLE_API void enqueue(const StreamPtr& stream, const std::string& what,
                               const std::vector<Access>& accesses, std::function<void()> task);
void record(const StreamPtr& stream, Event& event);
void wait_in_stream(const StreamPtr& stream, const Event& event);
// Whether it has come; if so the host knows from now on.
bool host_sees(const Event& event);
void host_waits(const Event& event);
// Nothing if one of them has not come, or was never recorded.
std::optional<double> milliseconds_between(const Event& from, const Event& to);

// Null: there is not so much left.
void* allocate_device(size_t bytes);
// Of all devices together.
struct DeviceMemory {
  size_t free;
  size_t total;
};
DeviceMemory device_memory();
void* allocate_pinned(size_t bytes);
// False: there is no such memory.
bool free_memory(void* address);
// Where the double reads and writes what a program calls `address`. Memory of the host is itself.
KHORUS_DOUBLE_API std::byte* view_of(const void* address, size_t bytes);
// A copy from pinned memory to the device was enqueued.
void note_upload(const void* to, const void* from, size_t bytes);
// What will be at this place of the device's memory, as far as the host knows: the pinned memory
// that was uploaded there last. Ends the process if there is no such.
const std::byte* uploaded_from(const std::string& what, const void* address, size_t bytes);
// Ends the process if that is not memory of the device.
KHORUS_DOUBLE_API void expect_device_memory(const std::string& what, const void* address,
                                            size_t bytes);

// What CUstream is; the stream itself belongs to its registry.
KHORUS_DOUBLE_API StreamPtr stream_of(void* handle);

}  // namespace khorus::gpu_double
