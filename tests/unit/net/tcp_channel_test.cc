// The connected tree, in the clear and under TLS: frames, wake, idle cost, close, the end of a
// peer.
#include "core/net/tcp_channel.h"

#include <gtest/gtest.h>
#include <time.h>

#include <atomic>
#include <thread>

#include "core/wire/message.h"
#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using testing::Channel;
using testing::Clock;
using testing::collect;
using testing::connect_whole_tree;
using testing::milliseconds;
using testing::patience;

// The parameter: whether under TLS.
class TcpChannel : public ::testing::TestWithParam<bool> {};

// A parent with one child.
struct Couple {
  explicit Couple(bool tls) {
    auto results = connect_whole_tree(2, 1, tls);
    for (auto& result : results) EXPECT_TRUE(result.ok()) << result.status().to_string();
    parent = std::move(results.at(0).value());
    child = std::move(results.at(1).value());
  }
  Channel parent;
  Channel child;
};

// Numbers travel up and are summed, the sum travels down.
int64_t sum_over_tree(int rank, int size, int fan_in, ControlChannel* channel) {
  const TreeOptions place = testing::tree_options(rank, size, fan_in, nullptr);
  int64_t sum = rank;
  for (const ChannelEvent& event : collect(channel, place.children.size())) {
    sum += std::stoll(text_of(event.frame));
  }
  if (rank != 0) {
    channel->send(place.parent, bytes_of(std::to_string(sum)));
    const auto events = collect(channel, 1);
    sum = events.empty() ? -1 : std::stoll(text_of(events[0].frame));
  }
  for (const int child : place.children) channel->send(child, bytes_of(std::to_string(sum)));
  return sum;
}

TEST_P(TcpChannel, TreesOfManySizesCarryFrames) {
  for (const int size : {1, 2, 3, 5, 9, 40}) {
    for (const int fan_in : {1, 2, 8}) {
      if (fan_in == 1 && size > 9) continue;
      auto channels = connect_whole_tree(size, fan_in, GetParam());
      std::vector<std::jthread> threads;
      std::atomic<int> right{0};
      for (int rank = 0; rank < size; ++rank) {
        auto& channel = channels[static_cast<size_t>(rank)];
        ASSERT_TRUE(channel.ok()) << channel.status().to_string();
        threads.emplace_back([&, rank] {
          for (int round = 0; round < 3; ++round) {
            if (sum_over_tree(rank, size, fan_in, channel->get()) == int64_t{size} * (size - 1) / 2)
              ++right;
          }
          (*channel)->close(patience());
        });
      }
      threads.clear();
      EXPECT_EQ(right, 3 * size) << size << " ranks, fan-in " << fan_in;
    }
  }
}

TEST_P(TcpChannel, FramesOfEverySizeArriveWholeAndInOrder) {
  Couple couple(GetParam());
  std::vector<size_t> sizes = {1, 27, 28, 29, 4095, 4096, 4097, 70'000, 300'000, 5'000'000};
  std::jthread sender([&] {
    for (const size_t size : sizes)
      couple.parent->send(1, Bytes(size, static_cast<std::byte>(size)));
    couple.parent->close(patience());
  });
  const auto events = collect(couple.child.get(), sizes.size() + 1);
  ASSERT_EQ(events.size(), sizes.size() + 1);
  for (size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_TRUE(events[i].frame == Bytes(sizes[i], static_cast<std::byte>(sizes[i]))) << sizes[i];
  }
  EXPECT_EQ(events.back().kind, ChannelEvent::Kind::kClosed);
  EXPECT_EQ(couple.child->stats().messages_received, sizes.size());
}

TEST_P(TcpChannel, TheLargestFrameIsCarried) {
  Couple couple(GetParam());
  const Bytes largest(wire::Limits::kMaxFrameBytes, std::byte{5});
  std::jthread sender([&] {
    couple.parent->send(1, largest);
    couple.parent->close(patience());
  });
  const auto events = collect(couple.child.get(), 1);
  ASSERT_FALSE(events.empty());
  EXPECT_TRUE(events[0].frame == largest);
}

TEST_P(TcpChannel, WhatHasArrivedIsDeliveredInOnePoll) {
  Couple couple(GetParam());
  for (int i = 0; i < 50; ++i) couple.parent->send(1, bytes_of(std::to_string(i)));
  couple.parent->close(patience());  // returns when the child's kernel has everything
  std::vector<ChannelEvent> events;
  couple.child->poll(patience(), &events);
  EXPECT_GE(events.size(), 50u);
}

TEST_P(TcpChannel, CloseFlushesToASlowReader) {
  Couple couple(GetParam());
  constexpr size_t kFrames = 40;
  const Bytes large(1u << 20, std::byte{7});  // more than the kernel's buffers in total
  for (size_t i = 0; i < kFrames; ++i) couple.parent->send(1, large);
  std::jthread closer([&] { couple.parent->close(patience()); });
  const auto events = collect(couple.child.get(), kFrames + 1);
  ASSERT_EQ(events.size(), kFrames + 1);
  EXPECT_TRUE(std::all_of(events.begin(), events.end() - 1,
                          [&](const ChannelEvent& event) { return event.frame == large; }));
}

TEST_P(TcpChannel, CloseIsBoundedWhenThePeerDoesNotRead) {
  Couple couple(GetParam());
  const Bytes large(8u << 20);
  for (int i = 0; i < 4; ++i) couple.parent->send(1, large);
  const auto before = Clock::now();
  couple.parent->close(before + milliseconds(100));
  EXPECT_LT(Clock::now() - before, std::chrono::seconds(20));
  couple.parent->send(1, large);  // dropped
}

TEST_P(TcpChannel, TheEndOfAPeerIsSeenAtOnceAndOnce) {
  Couple couple(GetParam());
  couple.child->send(0, bytes_of("last words"));
  std::jthread death([&] { couple.child.reset(); });
  const auto events = collect(couple.parent.get(), 2);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(text_of(events[0].frame), "last words");
  EXPECT_EQ(events[1].kind, ChannelEvent::Kind::kClosed);
  EXPECT_EQ(events[1].peer, 1);
  EXPECT_FALSE(events[1].reason.empty());
  couple.parent->send(1, bytes_of("dropped"));
  std::vector<ChannelEvent> more;
  couple.parent->poll(Clock::now() + milliseconds(20), &more);
  EXPECT_TRUE(more.empty());
}

TEST_P(TcpChannel, LastWordsAreReadAlsoWhenOurOwnSendFailsFirst) {
  for (int attempt = 0; attempt < 20; ++attempt) {
    Couple couple(GetParam());
    couple.parent->send(1, bytes_of("never read: the close becomes a reset"));
    couple.child->send(0, bytes_of("the reason"));
    couple.child.reset();
    couple.parent->send(1, bytes_of("fails"));
    couple.parent->send(1, bytes_of("is dropped"));
    const auto events = collect(couple.parent.get(), 2);
    ASSERT_EQ(events.size(), 2u);
    EXPECT_EQ(text_of(events[0].frame), "the reason");
    EXPECT_EQ(events[1].kind, ChannelEvent::Kind::kClosed);
  }
}

TEST_P(TcpChannel, WakeBeforePollMakesItReturn) {
  Couple couple(GetParam());
  std::vector<ChannelEvent> events;
  for (int i = 0; i < 1000; ++i) couple.parent->wake();
  couple.parent->poll(Clock::time_point::max(), &events);
  const auto deadline = Clock::now() + milliseconds(20);
  couple.parent->poll(deadline, &events);
  EXPECT_GE(Clock::now(), deadline) << "many wakes count as one";
  EXPECT_TRUE(events.empty());
}

TEST_P(TcpChannel, NoWakeIsLostAmongManyThreads) {
  Couple couple(GetParam());
  constexpr int kThreads = 8;
  const int per_thread = testing::soak() ? 100'000 : 2'000;
  std::atomic<int> submitted{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < per_thread; ++i) {
        ++submitted;
        couple.parent->wake();
      }
    });
  }
  std::vector<ChannelEvent> events;
  const auto deadline = patience();
  // A lost wake would leave this asleep until the deadline.
  while (submitted < kThreads * per_thread && Clock::now() < deadline) {
    couple.parent->poll(deadline, &events);
  }
  EXPECT_EQ(submitted, kThreads * per_thread);
  EXPECT_LT(Clock::now(), deadline);
}

TEST_P(TcpChannel, DeadlinesAreKeptInAnyOrder) {
  Couple couple(GetParam());
  std::vector<ChannelEvent> events;
  couple.parent->wake();
  couple.parent->poll(Clock::now() + milliseconds(40), &events);  // arms a timer, returns by wake
  for (const int ms : {0, 60, 1, 25, 2, -5}) {
    const auto deadline = Clock::now() + milliseconds(ms);
    couple.parent->poll(deadline, &events);
    EXPECT_GE(Clock::now(), deadline);
    EXPECT_LT(Clock::now(), deadline + std::chrono::seconds(10));
  }
}

double thread_cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

TEST_P(TcpChannel, WaitingUsesNoCpu) {
  Couple couple(GetParam());
  std::vector<ChannelEvent> events;
  const double before = thread_cpu_seconds();
  couple.parent->poll(Clock::now() + milliseconds(500), &events);
  EXPECT_LT(thread_cpu_seconds() - before, 0.05);
}

// Both neighbours talk at once, in small frames and large ones, and each reads while it writes.
TEST_P(TcpChannel, FramesTravelInBothDirectionsAtOnce) {
  Couple couple(GetParam());
  constexpr size_t kFrames = 2000;
  const auto frame_of = [](size_t i) {
    return Bytes(i % 100 == 0 ? 300'000 : 1 + i % 40, static_cast<std::byte>(i));
  };
  const auto talk = [&](ControlChannel* channel, int peer) {
    std::vector<ChannelEvent> events;
    for (size_t i = 0; i < kFrames; ++i) {
      channel->send(peer, frame_of(i));
      if (i % 7 == 0) channel->poll(Clock::now(), &events);
    }
    const auto deadline = patience();
    while (events.size() < kFrames && Clock::now() < deadline) channel->poll(deadline, &events);
    ASSERT_GE(events.size(), kFrames);  // and perhaps the end of the other
    for (size_t i = 0; i < kFrames; ++i) ASSERT_TRUE(events[i].frame == frame_of(i)) << i;
    channel->close(patience());
  };
  std::jthread child([&] { talk(couple.child.get(), 0); });
  talk(couple.parent.get(), 1);
}

// More than one call reads: nothing may be forgotten that no readable socket tells of.
TEST_P(TcpChannel, ACallThatHasReadEnoughForgetsNothing) {
  Couple couple(GetParam());
  const Bytes large(12u << 20, std::byte{9});
  std::jthread sender([&] {
    couple.parent->send(1, large);
    couple.parent->send(1, bytes_of("the last"));
    // Stays open, so that no end of the connection makes the child look again.
    std::vector<ChannelEvent> events;
    const auto deadline = patience();
    while (events.empty() && Clock::now() < deadline) couple.parent->poll(deadline, &events);
  });
  const auto events = collect(couple.child.get(), 2);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(events[0].frame == large);
  EXPECT_EQ(text_of(events[1].frame), "the last");
  couple.child->send(0, bytes_of("heard"));
}

INSTANTIATE_TEST_SUITE_P(ClearAndTls, TcpChannel, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "Tls" : "Clear"; });

}  // namespace
}  // namespace khorus::net
