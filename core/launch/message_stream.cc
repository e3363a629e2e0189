// See message_stream.h.
#include "core/launch/message_stream.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/net/mac.h"

namespace khorus::launch {
namespace {

constexpr size_t kHeaderBytes = 4;
constexpr char kNonsense[] = "what came is not from khorusrun";

std::array<std::byte, kHeaderBytes> header_of(size_t size) {
  std::array<std::byte, kHeaderBytes> header{};
  for (size_t i = 0; i < kHeaderBytes; ++i) header[i] = static_cast<std::byte>(size >> (8 * i));
  return header;
}

size_t size_in(std::span<const std::byte> header) {
  size_t size = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) size |= static_cast<size_t>(header[i]) << (8 * i);
  return size;
}

void make_non_blocking(int descriptor) {
  ::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) | O_NONBLOCK);
}

Status failed(const char* what) {
  return Status(StatusCode::kUnavailable, std::string(what) + ": " + std::strerror(errno));
}

// Exactly so many bytes.
Status read_all(int descriptor, std::span<std::byte> bytes,
                std::chrono::steady_clock::time_point deadline) {
  while (!bytes.empty()) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry{descriptor, POLLIN, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready == 0) return Status(StatusCode::kTimeout, "nothing came in time");
    if (ready < 0 && errno == EINTR) continue;
    const ssize_t size = ::read(descriptor, bytes.data(), bytes.size());
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (size < 0) return failed("read");
    if (size == 0) return Status(StatusCode::kUnavailable, "the other end is gone");
    bytes = bytes.subspan(static_cast<size_t>(size));
  }
  return Status();
}

}  // namespace

MessageStream::MessageStream(net::asio::io_context* io, Descriptor reading, Descriptor writing,
                             Events events)
    : reading_(*io, reading.release()),
      writing_(*io, writing.release()),
      events_(std::move(events)) {
  make_non_blocking(reading_.native_handle());
  make_non_blocking(writing_.native_handle());
}

void MessageStream::start() { wait_readable(); }

void MessageStream::send(std::span<const std::byte> message) {
  if (over_ || !writing_.is_open()) return;
  const auto header = header_of(message.size());
  unsent_.insert(unsent_.end(), header.begin(), header.end());
  unsent_.insert(unsent_.end(), message.begin(), message.end());
  if (!waits_writable_) write_some();
}

void MessageStream::write_some() {
  while (has_unsent()) {
    const ssize_t size =
        ::write(writing_.native_handle(), unsent_.data() + at_, unsent_.size() - at_);
    if (size > 0) {
      at_ += static_cast<size_t>(size);
    } else if (size < 0 && errno == EAGAIN) {
      waits_writable_ = true;
      writing_.async_wait(Stream::wait_write, [this](net::ErrorCode error) {
        waits_writable_ = false;
        if (!error) write_some();
      });
      return;
    } else if (size < 0 && errno != EINTR) {
      break;  // the reading side says why
    }
  }
  net::wipe(unsent_);  // the first message holds the key
  unsent_.clear();
  at_ = 0;
  if (events_.on_written) events_.on_written();
}

void MessageStream::wait_readable() {
  reading_.async_wait(Stream::wait_read, [this](net::ErrorCode error) {
    if (error || over_) return;
    if (read_some() && !over_) wait_readable();
  });
}

// False: nothing more will come.
bool MessageStream::read_some() {
  std::array<std::byte, 65536> bytes;
  const ssize_t size = ::read(reading_.native_handle(), bytes.data(), bytes.size());
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (size <= 0) {
    end(size == 0 ? "the other end is gone" : std::strerror(errno));
    return false;
  }
  received_.insert(received_.end(), bytes.begin(), bytes.begin() + size);
  take_messages();
  return !over_;
}

void MessageStream::take_messages() {
  size_t at = 0;
  while (!over_ && received_.size() - at >= kHeaderBytes) {
    const std::span<const std::byte> rest = std::span(received_).subspan(at);
    const size_t size = size_in(rest);
    if (size > kMaxMessageBytes) return end(kNonsense);
    if (rest.size() - kHeaderBytes < size) break;
    events_.on_message(rest.subspan(kHeaderBytes, size));
    at += kHeaderBytes + size;
  }
  received_.erase(received_.begin(), received_.begin() + static_cast<std::ptrdiff_t>(at));
}

void MessageStream::drain() {
  if (over_) return;
  pollfd entry{reading_.native_handle(), POLLIN, 0};
  while (!over_ && ::poll(&entry, 1, 0) > 0 && read_some()) {
  }
}

void MessageStream::close_writing() {
  net::ErrorCode ignored;
  writing_.close(ignored);
}

void MessageStream::end(const std::string& why) {
  over_ = true;
  events_.on_closed(why);
}

Result<std::vector<std::byte>> read_message(int descriptor,
                                            std::chrono::steady_clock::time_point deadline) {
  std::array<std::byte, kHeaderBytes> header{};
  if (Status status = read_all(descriptor, header, deadline); !status.ok()) return status;
  const size_t size = size_in(header);
  if (size > kMaxMessageBytes) return Status(StatusCode::kInvalidArgument, kNonsense);
  std::vector<std::byte> message(size);
  if (Status status = read_all(descriptor, message, deadline); !status.ok()) return status;
  return message;
}

Status write_message(int descriptor, std::span<const std::byte> message) {
  const auto header = header_of(message.size());
  std::vector<std::byte> bytes(header.begin(), header.end());
  bytes.insert(bytes.end(), message.begin(), message.end());
  for (size_t at = 0; at < bytes.size();) {
    const ssize_t size = ::write(descriptor, bytes.data() + at, bytes.size() - at);
    if (size < 0 && errno != EINTR) return failed("write");
    if (size > 0) at += static_cast<size_t>(size);
  }
  return Status();
}

}  // namespace khorus::launch
