// TcpStore: the store of a job as seen by a rank: a client of the launcher's StoreServer over one
// authenticated connection.
//
// Thread rule: set() and get() from any thread, also from several at once: a get() that waits does
// not hold up others. There is no thread behind it: one of the callers reads for all. A connection
// that has failed stays failed (Unavailable). In a forked child every method fails.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "core/net/job_key.h"
#include "core/net/store.h"
#include "khorus/status.h"

namespace khorus::net {

struct TcpStoreOptions {
  std::string address;  // "host:port", "[::1]:port"
  JobKey key;
  std::string job_id;
  int rank = -1;  // for messages and the handshake; -1: not a rank (the launcher)
  std::chrono::milliseconds timeout{30'000};  // for connecting and the handshake
  bool tls = false;                           // as the server
};

class TcpStore final : public Store {
 public:
  // PermissionDenied says what differs (key, job, version); Timeout, Unavailable name the address.
  static Result<std::unique_ptr<TcpStore>> connect(const TcpStoreOptions& options);
  ~TcpStore() override;

  Status set(const std::string& key, std::span<const std::byte> value) override;
  Result<std::vector<std::byte>> get(const std::string& key,
                                     std::chrono::milliseconds timeout) override;
  Result<std::unique_ptr<StoreWaiter>> make_waiter() override;

 private:
  struct Impl;
  class Waiter;
  explicit TcpStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace khorus::net
