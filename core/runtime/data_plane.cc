// See data_plane.h.
#include "core/runtime/data_plane.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace khorus::runtime {
namespace {

Status status_of(int32_t code, const khorus_error& error) {
  if (code == 0) return Status();
  return Status(static_cast<StatusCode>(code), error.message, error.rank);
}

khorus_error empty_error() {
  khorus_error error{};
  error.rank = -1;
  return error;
}

}  // namespace

Result<std::unique_ptr<DataPlane>> DataPlane::open(Options options) {
  std::unique_ptr<DataPlane> plane(new DataPlane(std::move(options)));
  const Options& own = plane->options_;
  plane->host_.struct_size = sizeof(khorus_host);
  plane->host_.engine = plane.get();
  plane->host_.exchange = &DataPlane::exchange;
  plane->host_.log = &DataPlane::log;

  const std::vector<int32_t> ranks(own.ranks.begin(), own.ranks.end());
  std::vector<const char*> hosts;
  for (const std::string& host : own.hosts) hosts.push_back(host.c_str());
  khorus_group group{};
  group.struct_size = sizeof group;
  group.rank = own.rank;
  group.size = static_cast<int32_t>(own.hosts.size());
  group.global_ranks = ranks.data();
  group.hosts = hosts.data();
  group.id = own.id.c_str();
  group.epoch = own.epoch;
  group.network_interface = own.network_interface.c_str();
  group.timeout_ms = own.timeout_ms;
  group.host = &plane->host_;
  group.device = own.device;
  khorus_error error = empty_error();
  const int32_t code = own.backend->open(&group, &plane->comm_, &error);
  if (code != 0) return status_of(code, error);
  return plane;
}

DataPlane::~DataPlane() { disconnect(); }

Status DataPlane::connect() {
  khorus_error error = empty_error();
  const int32_t code = options_.backend->connect(comm_, &error);
  return status_of(code, error);
}

void DataPlane::abort(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (comm_ != nullptr) options_.backend->abort(comm_, reason.c_str());
}

std::shared_ptr<void> DataPlane::allocate(size_t bytes) {
  const std::lock_guard lock(lending_mutex_);
  if (comm_ == nullptr || options_.backend->allocate == nullptr) return nullptr;
  khorus_memory memory{};
  memory.struct_size = sizeof memory;
  khorus_error error = empty_error();
  if (options_.backend->allocate(comm_, bytes, &memory, &error) != 0) {
    options_.logger->debug(std::string(options_.backend->name) + ": " + error.message);
    return nullptr;
  }
  return std::shared_ptr<void>(memory.data, [memory](void*) { memory.release(memory.owner); });
}

Status DataPlane::run(const khorus_op& op) {
  khorus_error error = empty_error();
  const int32_t code = options_.backend->run(comm_, &op, &error);
  return status_of(code, error);
}

Status DataPlane::order(uint64_t sequence, void* stream) {
  const std::lock_guard lock(lending_mutex_);
  if (comm_ == nullptr) return Status(StatusCode::kAborted, "the communicator is gone");
  khorus_error error = empty_error();
  const int32_t code = options_.backend->order(comm_, sequence, stream, &error);
  return status_of(code, error);
}

Status DataPlane::finish(uint64_t sequence) {
  khorus_error error = empty_error();
  const int32_t code = options_.backend->finish(comm_, sequence, &error);
  return status_of(code, error);
}

std::optional<DeviceSpan> DataPlane::times(uint64_t sequence) {
  if (options_.backend->times == nullptr) return std::nullopt;
  int64_t begin = 0;
  int64_t end = 0;
  if (options_.backend->times(comm_, sequence, &begin, &end) == 0) return std::nullopt;
  using Time = std::chrono::steady_clock::time_point;
  return DeviceSpan{Time(std::chrono::nanoseconds(begin)), Time(std::chrono::nanoseconds(end))};
}

void DataPlane::disconnect() {
  const std::lock_guard lending(lending_mutex_);
  const std::lock_guard lock(mutex_);
  if (comm_ != nullptr) options_.backend->disconnect(std::exchange(comm_, nullptr));
}

int32_t DataPlane::exchange(void* engine, const char* tag, const void* bytes, size_t size,
                            void (*receive)(void*, int32_t, const void*, size_t), void* context,
                            khorus_error* error) {
  const auto& self = *static_cast<const DataPlane*>(engine);
  const auto gathered =
      self.options_.exchange(tag, std::span(static_cast<const std::byte*>(bytes), size));
  if (gathered.ok()) {
    for (size_t rank = 0; rank < gathered->size(); ++rank) {
      const wire::Bytes& part = (*gathered)[rank];
      receive(context, static_cast<int32_t>(rank), part.data(), part.size());
    }
    return 0;
  }
  const Status& status = gathered.status();
  if (error != nullptr) {
    const std::string& text = status.message();
    const size_t length = std::min(text.size(), sizeof error->message - 1);
    std::memcpy(error->message, text.data(), length);
    error->message[length] = '\0';
    error->code = static_cast<int32_t>(status.code());
    error->rank = status.lost_rank();
  }
  return static_cast<int32_t>(status.code());
}

void DataPlane::log(void* engine, int32_t level, const char* message) {
  const auto& self = *static_cast<const DataPlane*>(engine);
  const int32_t bounded = std::clamp(level, 0, static_cast<int32_t>(LogLevel::kFatal));
  self.options_.logger->log(static_cast<LogLevel>(bounded), message);
}

}  // namespace khorus::runtime
