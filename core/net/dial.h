// dial(): connects to a peer and authenticates, as the initiating side.
//
// Thread rule: the thread that runs the io_context; the callback runs there, exactly once, never
// from within dial() itself.
#pragma once

#include <chrono>
#include <functional>

#include "core/net/asio.h"
#include "core/net/authentication.h"
#include "core/net/stream.h"

namespace khorus::net {

struct DialOptions {
  Address address;
  JobKey key;
  Identity self;
  Role peer_role = Role::kRank;
  int32_t peer_rank = -1;
  std::chrono::steady_clock::time_point deadline;
};

// An authenticated connection, under TLS if options.self.tls.
struct Dialed {
  Stream stream;
  SessionKeys keys;
};

// Unavailable: nobody listens, or the peer hung up; Timeout; PermissionDenied: what differs.
void dial(asio::io_context& io, const DialOptions& options,
          std::function<void(Result<Dialed>)> on_done);
// The same, blocking, on an io_context of its own.
Result<Dialed> dial_and_wait(const DialOptions& options);

}  // namespace khorus::net
