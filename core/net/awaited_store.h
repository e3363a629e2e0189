// Waiting for what another machine has yet to begin: a name that is not known yet (that of a
// container which starts at the same time), and a store whose server does not listen yet.
//
// Nobody tells one machine that another is there now: asking again, less and less often, is all
// there is. Whatever will not change by waiting ends it at once.
//
// Thread rule: blocks its thread until there is an answer, at most for `timeout`.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "core/net/address.h"
#include "core/net/tcp_store.h"
#include "khorus/status.h"

namespace khorus::net {

// The first address that resolve() gives.
Result<Address> await_address(const std::string& host_and_port, std::chrono::milliseconds timeout);

// As TcpStore::connect(). Unavailable holds what the last call met when the time was over.
Result<std::unique_ptr<TcpStore>> await_store(const TcpStoreOptions& options);

}  // namespace khorus::net
