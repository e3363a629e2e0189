// Connecting the tree when something is wrong: ranks that do not come, second claims, strangers,
// other keys, jobs, epochs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/net/connection.h"
#include "core/net/dial.h"
#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using testing::address_of;
using ::testing::AllOf;
using testing::Channel;
using testing::Clock;
using testing::connect_all;
using ::testing::HasSubstr;
using testing::milliseconds;
using testing::patience;
using testing::seconds;
using testing::test_key;
using testing::tree_options;

// The time of a start that cannot succeed: enough for every thread to publish its address first.
constexpr seconds kBriefly{2};

// How a test calls a rank that is being started, as `rank`.
DialOptions dial_as(int rank, int callee, Store* store) {
  DialOptions options;
  options.address = address_of(callee, store);
  options.key = test_key();
  options.self = {Role::kRank, rank, 0, "test"};
  options.peer_rank = callee;
  options.deadline = patience();
  return options;
}

// The first frame from this peer, or "" with the reason when the connection ends.
std::string first_frame(Connection* connection) {
  std::string frame;
  const auto deadline = patience();
  Status status;
  while (status.ok() && frame.empty() && Clock::now() < deadline) {
    status = connection->receive([&](std::span<const std::byte> bytes) { frame = text_of(bytes); });
  }
  return frame;
}

TEST(TreeStart, RanksThatDoNotComeAreNamedOnEveryOtherRank) {
  MemoryStore store;
  std::vector<TreeOptions> options;
  for (const int rank : {0, 1, 2, 4, 5}) {
    options.push_back(tree_options(rank, 7, 2, &store));
    options.back().timeout = kBriefly;
  }
  options[0].host = "gpu-07";
  const auto results = connect_all(options);
  for (const auto& result : results) {
    EXPECT_EQ(result.status().code(), StatusCode::kTimeout) << result.status().to_string();
    EXPECT_THAT(result.status().message(), HasSubstr("ranks 3,6 did not come"));
  }
  EXPECT_THAT(results[0].status().message(), AllOf(HasSubstr("gpu-07"), HasSubstr("7 ranks")));
}

TEST(TreeStart, AnotherKeyIsRefusedAndTheOthersSayWhoIsMissing) {
  MemoryStore store;
  std::vector<TreeOptions> options;
  for (int rank = 0; rank < 3; ++rank) {
    options.push_back(tree_options(rank, 3, 2, &store));
    options.back().timeout = kBriefly;
  }
  options[1].timeout = 2 * kBriefly;  // rank 0 is the first to give up
  options[2].key = test_key(9);
  const auto results = connect_all(options);
  EXPECT_EQ(results[2].status().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(results[2].status().message(), AllOf(HasSubstr("rank 0"), HasSubstr("key")));
  EXPECT_EQ(results[0].status().code(), StatusCode::kTimeout);
  EXPECT_THAT(results[0].status().message(),
              AllOf(HasSubstr("rank 2 did not connect"), HasSubstr("key")));
  EXPECT_FALSE(results[1].ok());
}

TEST(TreeStart, AnotherJobIsRefusedNamingBoth) {
  MemoryStore store;
  std::vector<TreeOptions> options = {tree_options(0, 2, 1, &store), tree_options(1, 2, 1, &store)};
  options[0].timeout = kBriefly;
  options[1].job_id = "other";
  const auto results = connect_all(options);
  EXPECT_THAT(results[1].status().message(), AllOf(HasSubstr("\"test\""), HasSubstr("\"other\"")));
  EXPECT_THAT(results[0].status().message(), AllOf(HasSubstr("\"test\""), HasSubstr("\"other\"")));
}

TEST(TreeStart, AnAddressOfAnOldEpochIsNotUsed) {
  MemoryStore store;
  std::vector<TreeOptions> options = {tree_options(0, 2, 1, &store), tree_options(1, 2, 1, &store)};
  for (auto& rank : options) rank.timeout = kBriefly;
  options[1].epoch = 1;
  const auto results = connect_all(options);
  EXPECT_THAT(results[0].status().message(), HasSubstr("rank 1 did not come"));
  EXPECT_THAT(results[1].status().message(), HasSubstr("rank 0 did not come"));
}

TEST(TreeStart, TheSecondClaimToARankIsRefusedAndTheFirstGoesOn) {
  MemoryStore store;
  std::optional<Result<Channel>> root;
  std::jthread root_thread([&] { root.emplace(connect_tree(tree_options(0, 3, 2, &store))); });

  auto first = dial_and_wait(dial_as(1, 0, &store));
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  Connection rank_1(std::move(first->stream), first->keys);
  // The second says hello after the first has confirmed; it is refused then, or, when its own
  // confirmation comes in the same moment, cut off without a word.
  auto second = dial_and_wait(dial_as(1, 0, &store));
  if (second.ok()) {
    Connection impostor(std::move(second->stream), second->keys);
    EXPECT_EQ(first_frame(&impostor), "");
  } else {
    EXPECT_THAT(second.status().message(), HasSubstr("does not admit rank 1"));
  }
  EXPECT_THAT(dial_and_wait(dial_as(7, 0, &store)).status().message(),
              HasSubstr("does not admit rank 7"));

  ASSERT_TRUE(rank_1.send(bytes_of("ready")).ok());
  const auto rank_2 = connect_tree(tree_options(2, 3, 2, &store));
  EXPECT_TRUE(rank_2.ok()) << rank_2.status().to_string();
  root_thread.join();
  EXPECT_TRUE(root->ok()) << root->status().to_string();
  EXPECT_EQ(first_frame(&rank_1), "go");
}

TEST(TreeStart, SilentAndTalkativeStrangersDoNotBlockTheStart) {
  MemoryStore store;
  std::optional<Result<Channel>> root;
  std::jthread root_thread([&] {
    TreeOptions options = tree_options(0, 5, 4, &store);
    options.max_strangers = 3;
    options.stranger_timeout = milliseconds(60);
    root.emplace(connect_tree(options));
  });
  const Address address = dial_as(1, 0, &store).address;
  std::vector<Socket> strangers;
  for (int i = 0; i < 12; ++i) {
    auto socket = Socket::start_connect(address);
    ASSERT_TRUE(socket.ok());
    strangers.push_back(std::move(*socket));
    const std::string words(static_cast<size_t>(i) * 50, 'x');
    if (i % 2 == 1) static_cast<void>(strangers.back().write_some(bytes_of(words)));
  }
  std::vector<TreeOptions> options;
  for (int rank = 1; rank < 5; ++rank) options.push_back(tree_options(rank, 5, 4, &store));
  for (const auto& result : connect_all(options)) {
    EXPECT_TRUE(result.ok()) << result.status().to_string();
  }
  root_thread.join();
  EXPECT_TRUE(root->ok()) << root->status().to_string();
}

TEST(TreeStart, ARankThatLeavesDuringTheStartEndsItForAll) {
  MemoryStore store;
  std::optional<Result<Channel>> root;
  std::jthread root_thread([&] { root.emplace(connect_tree(tree_options(0, 2, 1, &store))); });
  ASSERT_TRUE(store.set(address_key(0, 1), bytes_of("127.0.0.1:1")).ok());
  { auto gone = dial_and_wait(dial_as(1, 0, &store)); }
  root_thread.join();
  EXPECT_EQ(root->status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(root->status().message(), HasSubstr("rank 1"));
}

TEST(TreeStart, AForgedFrameEndsTheConnection) {
  MemoryStore store;
  std::optional<Result<Channel>> root;
  std::jthread root_thread([&] { root.emplace(connect_tree(tree_options(0, 2, 1, &store))); });
  ASSERT_TRUE(store.set(address_key(0, 1), bytes_of("127.0.0.1:1")).ok());
  auto dialed = dial_and_wait(dial_as(1, 0, &store));
  ASSERT_TRUE(dialed.ok());
  SecretBytes wrong;
  const FrameHeader header = FrameSeal(wrong).seal(bytes_of("ready"));
  ASSERT_EQ(dialed->stream.write_some(header, bytes_of("ready")).bytes, header.size() + 5);
  root_thread.join();
  EXPECT_THAT(root->status().message(), HasSubstr("MAC"));
}

TEST(TreeStart, APoisonedAddressIsFoundOut) {
  MemoryStore store;
  ASSERT_TRUE(store.set(address_key(0, 0), bytes_of("10.0.0.1:80")).ok());
  const auto root = connect_tree(tree_options(0, 1, 1, &store));
  EXPECT_EQ(root.status().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(root.status().message(), HasSubstr("addr/0/0"));
}

TEST(TreeStart, ListensWhereItIsTold) {
  MemoryStore store;
  TreeOptions options = tree_options(0, 1, 1, &store);
  options.network_interface = "lo";
  EXPECT_TRUE(connect_tree(options).ok());
  EXPECT_THAT(text_of(*store.get(address_key(0, 0), milliseconds(0))), HasSubstr("127.0.0.1:"));
  options.network_interface = "no-such-interface";
  EXPECT_THAT(connect_tree(options).status().message(),
              AllOf(HasSubstr("no-such-interface"), HasSubstr("lo")));
  options.network_interface.clear();
  options.all_local = false;
  EXPECT_THAT(connect_tree(options).status().message(), HasSubstr("KHORUS_NETWORK_INTERFACE"));
  options.epoch = 1;
  options.store_address = "127.0.0.1:1";
  EXPECT_TRUE(connect_tree(options).ok());
}

}  // namespace
}  // namespace khorus::net
