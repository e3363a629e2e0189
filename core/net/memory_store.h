// MemoryStore: the store for ranks that are threads of one process.
//
// Thread rule: every method from any thread. get() sleeps on a condition variable.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "core/net/store.h"
#include "core/net/store_table.h"

namespace khorus::net {

class MemoryStore final : public Store {
 public:
  Status set(const std::string& key, std::span<const std::byte> value) override;
  Result<std::vector<std::byte>> get(const std::string& key,
                                     std::chrono::milliseconds timeout) override;
  Result<std::unique_ptr<StoreWaiter>> make_waiter() override;

 private:
  class Waiter;
  std::mutex mutex_;
  std::set<Waiter*> waiters_;
  std::condition_variable changed_;
  StoreTable table_;
};

}  // namespace khorus::net
