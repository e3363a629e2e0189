// ControlChannel: how one rank moves control frames to its parent and children in the control tree.
//
// Interface without fields; implementations: tcp_channel.h (Boost.Asio, authenticated),
// in_process_channel.h (threads of one process). Frames are opaque bytes, one or more, delivered
// in order, exactly once, or the connection ends.
//
// Thread rule: everything on the coordinator thread, except wake(), which any thread may call.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::net {

using Bytes = std::vector<std::byte>;

struct ChannelEvent {
  enum class Kind : uint8_t {
    kFrame,   // `frame` came from `peer`
    kClosed,  // the connection to `peer` is over; `reason` says why; no more events of this peer
  };
  Kind kind = Kind::kFrame;
  int peer = -1;  // a rank
  Bytes frame;
  std::string reason;
};

struct ChannelStats {
  uint64_t messages_sent = 0, bytes_sent = 0, messages_received = 0, bytes_received = 0;
};

class ControlChannel {
 public:
  virtual ~ControlChannel() = default;

  // Queues a frame and tries to write it at once; never blocks. A frame to a closed peer is
  // dropped.
  virtual void send(int peer, std::span<const std::byte> frame) = 0;

  // Waits for events, for wake(), or until `deadline` (time_point::max(): no deadline), whichever
  // is first, and appends the events to `events`. Uses no CPU while it waits. A wake() that came
  // before poll() makes it return at once.
  virtual void poll(std::chrono::steady_clock::time_point deadline,
                    std::vector<ChannelEvent>* events) = 0;

  // Makes the current or next poll() return. Any thread; cheap when one is pending already.
  virtual void wake() noexcept = 0;

  // Writes out what is queued, waiting at most until `deadline`, then closes every connection.
  virtual void close(std::chrono::steady_clock::time_point deadline) = 0;

  virtual ChannelStats stats() const = 0;
};

}  // namespace khorus::net
