// Store: where ranks meet before they are connected. Small values under string keys.
//
// Interface without fields; implementations: memory_store.h (in process), tcp_store.h (client of
// the launcher's StoreServer, authenticated with the job key).
//
// Thread rule: every method from any thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::net {

class Store {
 public:
  virtual ~Store() = default;

  // Sets a key once. Setting it again to another value is PermissionDenied (a poisoned entry is
  // found out, not overwritten); to the same value is ok.
  virtual Status set(const std::string& key, std::span<const std::byte> value) = 0;

  // Blocks until the key is there or the time is over (Timeout names the key).
  virtual Result<std::vector<std::byte>> get(const std::string& key,
                                             std::chrono::milliseconds timeout) = 0;
};

}  // namespace khorus::net
