// MemoryStore: the store for ranks that are threads of one process.
//
// Thread rule: every method from any thread. get() sleeps on a condition variable.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>

#include "core/net/store.h"
#include "core/net/store_table.h"

namespace khorus::net {

class MemoryStore final : public Store {
 public:
  Status set(const std::string& key, std::span<const std::byte> value) override;
  Result<std::vector<std::byte>> get(const std::string& key,
                                     std::chrono::milliseconds timeout) override;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  StoreTable table_;
};

}  // namespace khorus::net
