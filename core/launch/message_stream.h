// MessageStream: whole messages over two descriptors, without blocking: what the launcher and its
// agent on another host speak through ssh.
//
// A message is 4 bytes of length, little-endian, and as many bytes. There is no MAC: ssh is between
// the ends. Lengths are bounded, so that a wrong program at the other end is found out.
//
// Thread rule: the thread that runs the io_context; the plain functions block theirs.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/launch/descriptor.h"
#include "core/net/asio.h"
#include "khorus/status.h"

namespace khorus::launch {

inline constexpr size_t kMaxMessageBytes = size_t{16} << 20;

class MessageStream {
 public:
  struct Events {
    std::function<void(std::span<const std::byte> message)> on_message;
    // Once: the other end is gone, or spoke nonsense; nothing comes after it.
    std::function<void(const std::string& why)> on_closed;
    // All that was sent has been written. May be empty.
    std::function<void()> on_written;
  };

  // Both become non-blocking. They may be the same socket.
  MessageStream(net::asio::io_context* io, Descriptor reading, Descriptor writing, Events events);
  MessageStream(const MessageStream&) = delete;
  MessageStream& operator=(const MessageStream&) = delete;

  void start();
  // Never blocks. What cannot be written any more is dropped: on_closed tells.
  void send(std::span<const std::byte> message);
  bool has_unsent() const noexcept { return at_ < unsent_.size(); }
  // Takes what is there, without waiting.
  void drain();
  // The other end sees the end of the stream.
  void close_writing();

 private:
  using Stream = net::asio::posix::stream_descriptor;

  void wait_readable();
  bool read_some();
  void take_messages();
  void write_some();
  void end(const std::string& why);

  Stream reading_, writing_;
  Events events_;
  std::vector<std::byte> received_, unsent_;
  size_t at_ = 0;  // of unsent_: before it, everything is written
  bool waits_writable_ = false;
  bool over_ = false;
};

// The same format, blocking: before there is an event loop. Unavailable, Timeout.
Result<std::vector<std::byte>> read_message(int descriptor,
                                            std::chrono::steady_clock::time_point deadline);
Status write_message(int descriptor, std::span<const std::byte> message);

}  // namespace khorus::launch
