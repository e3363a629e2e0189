// StoreTable: the values of a store and the rules for them: set once, bounded.
//
// A plain value without a lock: its owner guards it (MemoryStore by a mutex, StoreServer by its one
// thread).
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::net {

struct StoreLimits {
  size_t max_key_bytes = 256;
  size_t max_value_bytes = 64u << 10;
  size_t max_keys = 1u << 20;
  size_t max_total_bytes = 256u << 20;  // keys and values together
};

class StoreTable {
 public:
  explicit StoreTable(StoreLimits limits = {}) : limits_(limits) {}

  // Ok; PermissionDenied when the key holds another value; InvalidArgument or Unavailable when a
  // limit is reached.
  Status set(const std::string& key, std::span<const std::byte> value);
  // The value, or nullptr. Valid until the table is destroyed: values never change.
  const std::vector<std::byte>* find(const std::string& key) const;

 private:
  StoreLimits limits_;
  std::map<std::string, std::vector<std::byte>> values_;
  size_t total_bytes_ = 0;
};

// "nobody set \"addr/0/3\" in the store within 500 ms"
Status store_timeout(const std::string& key, std::chrono::milliseconds waited);

}  // namespace khorus::net
