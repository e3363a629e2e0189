// Channels between ranks that are threads: order, wake, close, sever, generations.
#include "core/net/in_process_channel.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using testing::Clock;
using testing::collect;

TEST(InProcessChannel, FramesComeInOrderAlsoBeforeThePeerIsThere) {
  const auto world = make_in_process_world(2);
  const auto root = world->connect(0, -1, {1});
  for (int i = 0; i < 100; ++i) root->send(1, bytes_of(std::to_string(i)));
  const auto child = world->connect(1, 0, {});
  const auto events = collect(child.get(), 100);
  ASSERT_EQ(events.size(), 100u);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(text_of(events[static_cast<size_t>(i)].frame), std::to_string(i));
    EXPECT_EQ(events[static_cast<size_t>(i)].peer, 0);
  }
  EXPECT_EQ(root->stats().messages_sent, 100u);
  EXPECT_EQ(child->stats().messages_received, 100u);
}

TEST(InProcessChannel, PollEndsAtItsDeadlineAndOnWake) {
  const auto world = make_in_process_world(1);
  const auto channel = world->connect(0, -1, {});
  std::vector<ChannelEvent> events;
  const auto deadline = Clock::now() + testing::milliseconds(30);
  channel->poll(deadline, &events);
  EXPECT_GE(Clock::now(), deadline);
  channel->wake();
  channel->poll(Clock::time_point::max(), &events);
  std::jthread waker([&] { channel->wake(); });
  channel->poll(Clock::time_point::max(), &events);
  EXPECT_TRUE(events.empty());
}

TEST(InProcessChannel, ACloseIsSeenAfterTheFramesBeforeIt) {
  const auto world = make_in_process_world(3);
  const auto root = world->connect(0, -1, {1, 2});
  auto child = world->connect(1, 0, {});
  const auto other = world->connect(2, 0, {});
  child->send(0, bytes_of("last words"));
  child.reset();
  const auto events = collect(root.get(), 2);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(text_of(events[0].frame), "last words");
  EXPECT_EQ(events[1].kind, ChannelEvent::Kind::kClosed);
  EXPECT_EQ(events[1].peer, 1);
  root->send(1, bytes_of("dropped"));
  std::vector<ChannelEvent> none;
  other->poll(Clock::now(), &none);
  EXPECT_TRUE(none.empty());
}

TEST(InProcessChannel, SeverIsSeenOnceByBothEnds) {
  const auto world = make_in_process_world(3);
  const auto root = world->connect(0, -1, {1, 2});
  auto child = world->connect(1, 0, {});
  const auto other = world->connect(2, 0, {});
  child->send(0, bytes_of("before"));
  world->sever(1, "killed by the test");
  child->send(0, bytes_of("after"));
  child->close(Clock::now());
  world->sever(1, "again");
  const auto events = collect(root.get(), 2);
  std::vector<ChannelEvent> more;
  root->poll(Clock::now(), &more);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(more.empty());
  EXPECT_EQ(text_of(events[0].frame), "before");
  EXPECT_EQ(events[1].reason, "killed by the test");
}

TEST(InProcessChannel, TheSeveredRankSeesItsNeighboursGone) {
  const auto world = make_in_process_world(2);
  const auto root = world->connect(0, -1, {1});
  const auto child = world->connect(1, 0, {});
  world->sever(1, "cut");
  const auto events = collect(child.get(), 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, ChannelEvent::Kind::kClosed);
  EXPECT_EQ(events[0].peer, 0);
}

TEST(InProcessWorld, ANewGenerationHasANewStoreAndFindsItsOwnPeers) {
  const auto world = make_in_process_world(2);
  auto root = world->connect(0, -1, {1});
  auto child = world->connect(1, 0, {});
  ASSERT_TRUE(world->store(0)->set("key", bytes_of("first")).ok());
  EXPECT_TRUE(world->store(1)->get("key", testing::milliseconds(0)).ok());
  root->close(Clock::now());
  // Rank 0 is back before rank 1 has left.
  const auto next_store = world->store(0);
  root = world->connect(0, -1, {1});
  ASSERT_TRUE(next_store->set("key", bytes_of("second")).ok());
  root->send(1, bytes_of("second generation"));
  EXPECT_EQ(text_of(*world->store(1)->get("key", testing::milliseconds(0))), "first");
  child->close(Clock::now());
  child = world->connect(1, 0, {});
  EXPECT_EQ(text_of(*world->store(1)->get("key", testing::milliseconds(0))), "second");
  EXPECT_EQ(text_of(collect(child.get(), 1).at(0).frame), "second generation");
}

TEST(InProcessWorld, AGenerationThatOnlySomeJoinedEndsWithThem) {
  const auto world = make_in_process_world(2);
  world->connect(0, -1, {1})->close(Clock::now());
  const auto root = world->connect(0, -1, {1});
  const auto child = world->connect(1, 0, {});
  child->send(0, bytes_of("together"));
  EXPECT_EQ(text_of(collect(root.get(), 1).at(0).frame), "together");
}

}  // namespace
}  // namespace khorus::net
