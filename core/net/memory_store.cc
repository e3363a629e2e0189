// See memory_store.h.
#include "core/net/memory_store.h"

namespace khorus::net {

Status MemoryStore::set(const std::string& key, std::span<const std::byte> value) {
  const std::lock_guard lock(mutex_);
  Status status = table_.set(key, value);
  if (status.ok()) changed_.notify_all();
  return status;
}

Result<std::vector<std::byte>> MemoryStore::get(const std::string& key,
                                                std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  std::unique_lock lock(mutex_);
  const std::vector<std::byte>* value = nullptr;
  if (!changed_.wait_until(lock, deadline, [&] { return (value = table_.find(key)) != nullptr; })) {
    return store_timeout(key, timeout);
  }
  return *value;
}

}  // namespace khorus::net
