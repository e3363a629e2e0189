// Messages over pipes: whole, in order, and an end that is told once.
#include "core/launch/message_stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <optional>

namespace khorus::launch {
namespace {

using Bytes = std::vector<std::byte>;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
    reading = Descriptor(ends[0]);
    writing = Descriptor(ends[1]);
  }
  Descriptor reading, writing;
};

Bytes message_of(size_t size, int seed) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + size_t(seed));
  return bytes;
}

// One end of a conversation, and what it got.
struct End {
  End(net::asio::io_context* io, Descriptor reading, Descriptor writing)
      : stream(io, std::move(reading), std::move(writing),
               {.on_message =
                    [this](std::span<const std::byte> bytes) {
                      received.emplace_back(bytes.begin(), bytes.end());
                    },
                .on_closed = [this](const std::string& why) { closed.push_back(why); },
                .on_written = {}}) {
    stream.start();
  }
  std::vector<Bytes> received;
  std::vector<std::string> closed;
  MessageStream stream;
};

TEST(MessageStream, MoreThanAPipeHoldsArrivesInOrder) {
  net::asio::io_context io;
  Pipe there, back;
  End left(&io, std::move(back.reading), std::move(there.writing));
  End right(&io, std::move(there.reading), std::move(back.writing));
  for (int i = 0; i < 20; ++i) left.stream.send(message_of(i == 0 ? 0 : 30000u * size_t(i), i));
  EXPECT_TRUE(left.stream.has_unsent());
  while (right.received.size() < 20) io.run_one();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(right.received[size_t(i)], message_of(i == 0 ? 0 : 30000u * size_t(i), i));
  }
  EXPECT_FALSE(left.stream.has_unsent());
  left.stream.close_writing();
  while (right.closed.empty()) io.run_one();
  EXPECT_EQ(right.closed, std::vector<std::string>{"the other end is gone"});
}

TEST(MessageStream, NonsenseEndsIt) {
  net::asio::io_context io;
  Pipe there, back;
  End end(&io, std::move(there.reading), std::move(back.writing));
  ASSERT_EQ(::write(there.writing.get(), "Welcome to node1\n", 17), 17);
  while (end.closed.empty()) io.run_one();
  EXPECT_TRUE(end.received.empty());
  EXPECT_NE(end.closed[0].find("not from khorusrun"), std::string::npos);
}

TEST(MessageStream, DrainTakesWhatIsThereWithoutWaiting) {
  net::asio::io_context io;
  Pipe there, back;
  End end(&io, std::move(there.reading), std::move(back.writing));
  end.stream.drain();
  ASSERT_TRUE(write_message(there.writing.get(), message_of(5, 1)).ok());
  ASSERT_TRUE(write_message(there.writing.get(), message_of(6, 2)).ok());
  end.stream.drain();
  EXPECT_EQ(end.received.size(), 2u);
  EXPECT_TRUE(end.closed.empty());
}

TEST(MessageStream, BlockingFunctionsSpeakTheSameAndAreBounded) {
  Pipe pipe;
  const auto soon = [] { return std::chrono::steady_clock::now() + std::chrono::seconds(10); };
  ASSERT_TRUE(write_message(pipe.writing.get(), message_of(1000, 3)).ok());
  const auto message = read_message(pipe.reading.get(), soon());
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(*message, message_of(1000, 3));
  EXPECT_EQ(read_message(pipe.reading.get(), std::chrono::steady_clock::now()).status().code(),
            StatusCode::kTimeout);
  pipe.writing.reset();
  EXPECT_EQ(read_message(pipe.reading.get(), soon()).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace khorus::launch
