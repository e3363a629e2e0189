// See connection.h.
#include "core/net/connection.h"

#include <algorithm>
#include <string>

namespace khorus::net {
namespace {

constexpr size_t kMinRoom = 4u << 10;
constexpr size_t kMaxRoom = 1u << 20;
constexpr size_t kMaxBytesPerReceive = 8u << 20;
constexpr size_t kKeptBuffer = 256u << 10;  // a buffer beyond this is given back when empty

Status over(const std::string& reason) { return Status(StatusCode::kUnavailable, reason); }

}  // namespace

Connection::Connection(Stream stream, const SessionKeys& keys, ConnectionLimits limits)
    : stream_(std::move(stream)),
      seal_(keys.send),
      open_(keys.receive, limits.max_payload_bytes),
      limits_(limits) {}

Status Connection::send(std::span<const std::byte> payload) {
  if (payload.size() > limits_.max_payload_bytes) {
    return Status(StatusCode::kInternal, "a frame of " + std::to_string(payload.size()) +
                                             " bytes is over the bound of " +
                                             std::to_string(limits_.max_payload_bytes));
  }
  const FrameHeader header = seal_.seal(payload);
  size_t written = 0;
  if (!has_unsent()) {
    const Socket::Transfer transfer = stream_.write_some(header, payload);
    if (transfer.kind == Socket::Transfer::Kind::kOver) return over(transfer.reason);
    written = transfer.bytes;
  }
  if (written == header.size() + payload.size()) return {};
  if (unsent_.size() - unsent_at_ + payload.size() > limits_.max_unsent_bytes) {
    return over("does not read: " + std::to_string(unsent_.size() - unsent_at_) +
                " bytes wait for it");
  }
  const size_t of_header = std::min(written, header.size());
  unsent_.insert(unsent_.end(), header.begin() + static_cast<ptrdiff_t>(of_header), header.end());
  const auto rest = payload.subspan(written - of_header);
  unsent_.insert(unsent_.end(), rest.begin(), rest.end());
  return {};
}

Status Connection::flush() {
  while (has_unsent()) {
    const auto rest = std::span(unsent_).subspan(unsent_at_);
    const Socket::Transfer transfer = rest.empty() ? stream_.flush() : stream_.write_some(rest);
    if (transfer.kind == Socket::Transfer::Kind::kOver) return over(transfer.reason);
    if (transfer.kind == Socket::Transfer::Kind::kWouldBlock) return {};
    unsent_at_ += transfer.bytes;
  }
  unsent_at_ = 0;
  unsent_.clear();
  if (unsent_.capacity() > kKeptBuffer) unsent_.shrink_to_fit();
  return {};
}

Status Connection::receive(const OnFrame& on_frame) {
  for (size_t total = 0;;) {
    make_room();
    const auto room = std::span(received_).subspan(end_);
    // When it is enough for one call, only what no readable socket would tell of any more.
    const Socket::Transfer transfer =
        total < kMaxBytesPerReceive ? stream_.read_some(room) : stream_.read_buffered(room);
    if (transfer.kind == Socket::Transfer::Kind::kWouldBlock) break;
    if (transfer.kind == Socket::Transfer::Kind::kOver) return over(transfer.reason);
    end_ += transfer.bytes;
    total += transfer.bytes;
    if (Status status = open_frames(on_frame); !status.ok()) return status;
    if (transfer.bytes < room.size()) break;  // the kernel had no more
  }
  return {};
}

Status Connection::open_frames(const OnFrame& on_frame) {
  for (;;) {
    const auto bytes = std::span(received_).subspan(begin_, end_ - begin_);
    if (bytes.size() < kFrameHeaderBytes) break;
    const auto header = bytes.first<kFrameHeaderBytes>();
    const Result<size_t> length = open_.payload_bytes(header);
    if (!length.ok()) return length.status();
    wanted_ = kFrameHeaderBytes + *length;
    if (bytes.size() < wanted_) break;
    const auto payload = bytes.subspan(kFrameHeaderBytes, *length);
    if (Status status = open_.open(header, payload); !status.ok()) return status;
    begin_ += wanted_;
    wanted_ = kFrameHeaderBytes;
    on_frame(payload);
  }
  if (begin_ == end_) begin_ = end_ = 0;
  return {};
}

// Room to read into: grows with what has arrived, never with what a header announces.
void Connection::make_room() {
  if (begin_ == end_ && received_.size() > kKeptBuffer) {
    received_.clear();
    received_.shrink_to_fit();
  }
  if (begin_ > 0 && received_.size() - end_ < kMinRoom) {
    std::copy(received_.begin() + static_cast<ptrdiff_t>(begin_),
              received_.begin() + static_cast<ptrdiff_t>(end_), received_.begin());
    end_ -= begin_;
    begin_ = 0;
  }
  const size_t pending = end_ - begin_;
  const size_t missing = wanted_ > pending ? wanted_ - pending : 0;
  const size_t room = std::clamp(std::min(missing, pending), kMinRoom, kMaxRoom);
  if (received_.size() - end_ < room) received_.resize(end_ + room);
}

}  // namespace khorus::net
