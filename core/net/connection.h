// Connection: an authenticated stream that carries whole frames, without blocking and without an
// event loop.
//
// Who owns one waits for readability (always) and writability (while has_unsent()) as it likes:
// with Asio in link.h, with poll(2) in the store client.
//
// Thread rule: one thread at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "core/net/authentication.h"
#include "core/net/frame_seal.h"
#include "core/net/stream.h"
#include "khorus/status.h"

namespace khorus::net {

struct ConnectionLimits {
  size_t max_payload_bytes = 64u << 20;
  // A peer that does not read is dropped when this much waits for it.
  size_t max_unsent_bytes = 256u << 20;
};

class Connection {
 public:
  using OnFrame = std::function<void(std::span<const std::byte> payload)>;

  Connection(Stream stream, const SessionKeys& keys, ConnectionLimits limits = {});

  // Seals the payload and writes what the kernel takes; keeps the rest. Not ok: the connection is
  // over for writing (what came in may still be received).
  Status send(std::span<const std::byte> payload);
  bool has_unsent() const noexcept { return unsent_at_ < unsent_.size() || stream_.has_unsent(); }
  // Writes what the kernel takes of the rest.
  Status flush();

  // Hands every whole frame that has arrived to `on_frame` (up to some megabytes per call). Not ok:
  // the connection is over, and every frame before its end has been handed over.
  Status receive(const OnFrame& on_frame);

  Socket& socket() noexcept { return stream_.socket(); }

 private:
  Status open_frames(const OnFrame& on_frame);
  void make_room();

  Stream stream_;
  FrameSeal seal_;
  FrameOpen open_;
  ConnectionLimits limits_;
  std::vector<std::byte> unsent_;  // from unsent_at_ on
  size_t unsent_at_ = 0;
  std::vector<std::byte> received_;  // [begin_, end_) is not parsed yet
  size_t begin_ = 0;
  size_t end_ = 0;
  size_t wanted_ = kFrameHeaderBytes;  // bytes of the frame at begin_, as far as known
};

}  // namespace khorus::net
