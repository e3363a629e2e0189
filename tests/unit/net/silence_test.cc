// Heartbeats between hosts: who is silent is lost, who is slow to begin or on this host is not.
#include <gtest/gtest.h>
#include <poll.h>

#include <future>

#include "core/net/tree_links.h"
#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using testing::Clock;
using testing::collect;
using testing::milliseconds;

constexpr milliseconds kTimeout{1000};

// A parent with one child. Loopback calls from 127.0.0.1: a parent that listens on another address
// is on another host as far as heartbeats know.
struct Couple {
  explicit Couple(const std::string& parent_address) {
    SessionKeys up;
    up.send.bytes()[0] = std::byte{1};
    up.receive.bytes()[0] = std::byte{2};
    const SessionKeys down{up.receive, up.send};
    Socket listening = Socket::listen(resolve(parent_address + ":0").value().front()).value();
    Socket called = Socket::start_connect(listening.local_address()).value();
    pollfd waits{listening.fd(), POLLIN, 0};
    EXPECT_EQ(poll(&waits, 1, 10'000), 1);
    parent->add(1, std::move(*listening.accept().value()), down);
    child->add(0, std::move(called), up);
    parent->watch_silence(kTimeout);
    child->watch_silence(kTimeout);
  }
  std::unique_ptr<TreeLinks> parent = std::make_unique<TreeLinks>(make_io_context().value());
  std::unique_ptr<TreeLinks> child = std::make_unique<TreeLinks>(make_io_context().value());
};

std::vector<ChannelEvent> poll_for(ControlChannel* channel, milliseconds time) {
  std::vector<ChannelEvent> events;
  for (const auto end = Clock::now() + time; Clock::now() < end;) channel->poll(end, &events);
  return events;
}

TEST(Silence, WhoPollsIsHeardAndWhoStopsIsLost) {
  Couple couple("127.0.0.2");
  {
    std::future<std::vector<ChannelEvent>> at_child =
        std::async(std::launch::async, [&] { return poll_for(couple.child.get(), 2 * kTimeout); });
    EXPECT_TRUE(poll_for(couple.parent.get(), 2 * kTimeout).empty());
    EXPECT_TRUE(at_child.get().empty());
  }
  EXPECT_EQ(couple.parent->stats().messages_received, 0u) << "heartbeats are counted apart";
  const auto began = Clock::now();
  const auto events = collect(couple.parent.get(), 1);  // the child's thread does nothing any more
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, ChannelEvent::Kind::kClosed);
  EXPECT_EQ(events[0].peer, 1);
  EXPECT_NE(events[0].reason.find("nothing was heard from it for 875 ms"), std::string::npos)
      << events[0].reason;
  EXPECT_GE(Clock::now() - began, kTimeout / 2);
}

TEST(Silence, WhoHasNotBegunIsWaitedFor) {
  Couple couple("127.0.0.2");
  EXPECT_TRUE(poll_for(couple.parent.get(), 3 * kTimeout / 2).empty());
}

TEST(Silence, WhoWasAwayItselfWaitsAnew) {
  Couple couple("127.0.0.2");
  std::promise<void> parent_is_back;
  std::jthread child([&] {
    EXPECT_TRUE(poll_for(couple.child.get(), kTimeout / 2).empty());
    parent_is_back.get_future().wait();  // both were away, and the child a little longer
    EXPECT_TRUE(poll_for(couple.child.get(), 3 * kTimeout / 2).empty());
  });
  EXPECT_TRUE(poll_for(couple.parent.get(), kTimeout / 2).empty());
  std::this_thread::sleep_for(2 * kTimeout);  // what is tested: the parent does not run
  parent_is_back.set_value();
  EXPECT_TRUE(poll_for(couple.parent.get(), 3 * kTimeout / 2).empty());
}

TEST(Silence, OnOneHostNobodyListensForIt) {
  Couple couple("127.0.0.1");
  std::jthread child([&] { EXPECT_TRUE(poll_for(couple.child.get(), kTimeout / 2).empty()); });
  EXPECT_TRUE(poll_for(couple.parent.get(), 3 * kTimeout / 2).empty());
}

}  // namespace
}  // namespace khorus::net
