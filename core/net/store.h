// Store: where ranks meet before they are connected. Small values under string keys.
//
// Interface without fields; implementations: memory_store.h (in process), tcp_store.h (client of
// the launcher's StoreServer, authenticated with the job key).
//
// Thread rule: every method from any thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "khorus/status.h"

namespace khorus::net {

// Gets that do not block, for one who waits for other things too: begin() them, sleep until fd() is
// readable, look(). What still waits when this is destroyed is given up.
//
// One thread; the store outlives it. Another call of the same store may take an answer off the
// wire: look() after each, and leave the store to this thread meanwhile.
class StoreWaiter {
 public:
  using Answer = std::pair<std::string, Result<std::vector<std::byte>>>;  // key, value

  virtual ~StoreWaiter() = default;
  // Waits for the key, without an end. Not ok: the store is gone.
  virtual Status begin(const std::string& key) = 0;
  // The same for its whole life.
  virtual int fd() const = 0;
  // What has come, each once. An error ends the wait for its key: Unavailable, the store is gone.
  virtual std::vector<Answer> look() = 0;
};

class Store {
 public:
  virtual ~Store() = default;

  // Sets a key once. Setting it again to another value is PermissionDenied (a poisoned entry is
  // found out, not overwritten); to the same value is ok.
  virtual Status set(const std::string& key, std::span<const std::byte> value) = 0;

  // Blocks until the key is there or the time is over (Timeout names the key).
  virtual Result<std::vector<std::byte>> get(const std::string& key,
                                             std::chrono::milliseconds timeout) = 0;

  virtual Result<std::unique_ptr<StoreWaiter>> make_waiter() = 0;
};

// What is left for the next request of several that have one deadline: never nothing.
inline std::chrono::milliseconds left_until(std::chrono::steady_clock::time_point deadline) {
  using std::chrono::milliseconds;
  return std::max(milliseconds(1), std::chrono::duration_cast<milliseconds>(
                                       deadline - std::chrono::steady_clock::now()));
}

}  // namespace khorus::net
