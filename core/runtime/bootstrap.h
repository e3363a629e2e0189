// Bootstrap: from options to a connected control channel.
//
// One rank: no network at all. A world: its in-process channel. Else TCP: the job key and the
// store, both from the launcher; or, for the ranks of one host without a launcher of ours, from
// rank 0 (core/net/host_meeting.h); then the authenticated tree.
//
// Thread rule: the thread that creates the engine.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/net/control_channel.h"
#include "core/protocol/topology.h"
#include "khorus/options.h"
#include "khorus/status.h"

namespace khorus::runtime {

struct Meeting {
  std::unique_ptr<net::ControlChannel> channel;
  uint64_t epoch = 0;
  std::array<std::byte, 32> object_key{};  // see khorus/object_key.h
  // "ranks 2,5": who has not come yet, as far as one can tell; "" when unknown.
  std::function<std::string()> missing_ranks;
  // What must live until all ranks have greeted each other: a store that this rank serves.
  std::shared_ptr<void> keep;
  // How long this rank waited until lost ranks were restarted; the others did not count it either.
  std::chrono::steady_clock::duration waited{0};
};

// InvalidArgument when the place is none.
Status check_place(const Place& place);

Result<Meeting> meet(const EngineOptions& options, const protocol::Topology& topology,
                     const std::string& host, std::chrono::milliseconds timeout);

}  // namespace khorus::runtime
