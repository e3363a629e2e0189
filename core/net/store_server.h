// StoreServer: the store of a job, served by the launcher to its ranks.
//
// Owns one thread ("khorus-store") with one io_context; every connection authenticates with the job
// key first. A get() for a key that is not there waits in the server without polling. Keys, values,
// connections, waiting gets and unauthenticated slots are bounded.
//
// Thread rule: every method from any thread.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "core/net/job_key.h"
#include "core/net/store_table.h"
#include "khorus/status.h"

namespace khorus::net {

struct StoreServerOptions {
  std::string bind_host = "127.0.0.1";  // an address of this machine
  int port = 0;                         // 0: a free one
  JobKey key;
  std::string job_id;
  StoreLimits limits;
  size_t max_connections = 1u << 16;
  size_t max_waiting_gets_per_connection = 256;
  int max_strangers = 64;
  std::chrono::milliseconds stranger_timeout{5'000};
  bool tls = false;  // as all clients
};

class StoreServer {
 public:
  static Result<std::unique_ptr<StoreServer>> start(const StoreServerOptions& options);
  // As stop().
  ~StoreServer();

  // "127.0.0.1:41234": what ranks are given as TcpStoreOptions::address.
  const std::string& address() const noexcept;

  // Waits until no client is connected, at most for `limit`: for one who would take the store along
  // while others still read there why. One waits at a time.
  void wait_until_left(std::chrono::milliseconds limit);
  // Closes every connection and ends the thread; waits for no peer. Idempotent.
  void stop();

 private:
  struct Impl;
  explicit StoreServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace khorus::net
