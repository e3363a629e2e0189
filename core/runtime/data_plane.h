// DataPlane: one communicator of one backend, with the engine's side of the C contract: the
// exchange over the control plane, the log, and an owner that disconnects.
//
// Thread rule: connect() by the thread that creates the engine, run by the lane's runner (through
// comm()); abort() by any thread; disconnect() when nothing else is under way but abort().
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/log.h"
#include "core/wire/message.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::runtime {

// When an operation was on a device.
struct DeviceSpan {
  std::chrono::steady_clock::time_point begin;
  std::chrono::steady_clock::time_point end;
};

class DataPlane {
 public:
  // Everyone's bytes, by rank. Blocks; collective.
  using Exchange = std::function<Result<std::vector<wire::Bytes>>(
      const std::string& tag, std::span<const std::byte> bytes)>;
  struct Options {
    const khorus_backend* backend = nullptr;
    int rank = 0;                    // in the group
    std::vector<int> ranks;          // global, ascending
    std::vector<std::string> hosts;  // by rank in the group
    std::string id;                  // of the communicator, unique in the job and epoch
    uint64_t epoch = 0;
    std::string network_interface;
    uint32_t timeout_ms = 0;
    int device = -1;  // this rank's, of a device backend
    Exchange exchange;
    const base::Logger* logger = nullptr;
  };

  static Result<std::unique_ptr<DataPlane>> open(Options options);
  ~DataPlane();
  DataPlane(const DataPlane&) = delete;
  DataPlane& operator=(const DataPlane&) = delete;

  Status connect();
  void abort(const std::string& reason);
  void disconnect();
  // The backend's memory, see khorus_backend.allocate; null where it has none. Any thread, after
  // connect().
  std::shared_ptr<void> allocate(size_t bytes);
  // See khorus_backend.
  Status run(const khorus_op& op);
  // Of device backends, see khorus_backend. order: any thread, Aborted after disconnect(); finish:
  // returns before disconnect() is called.
  Status order(uint64_t sequence, void* stream);
  Status finish(uint64_t sequence);
  // After finish() and by its thread: of an operation that was `timed`, if the device knows.
  std::optional<DeviceSpan> times(uint64_t sequence);

  const khorus_backend& backend() const noexcept { return *options_.backend; }
  khorus_comm* comm() const noexcept { return comm_; }

 private:
  explicit DataPlane(Options options) : options_(std::move(options)) {}
  static int32_t exchange(void* engine, const char* tag, const void* bytes, size_t size,
                          void (*receive)(void*, int32_t, const void*, size_t), void* context,
                          khorus_error* error);
  static void log(void* engine, int32_t level, const char* message);

  const Options options_;
  khorus_host host_{};
  std::mutex lending_mutex_;  // allocate(), order() against disconnect(), not against abort()
  std::mutex mutex_;          // abort() against disconnect()
  khorus_comm* comm_ = nullptr;
};

}  // namespace khorus::runtime
