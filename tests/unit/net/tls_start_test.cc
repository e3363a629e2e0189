// Connecting the tree under TLS when something is wrong: ranks that differ in it, members that
// prove the key and then stall, or talk nonsense; a second claim that comes while TLS begins.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <array>

#include "core/net/connection.h"
#include "core/net/dial.h"
#include "core/net/fixed_read.h"
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
using testing::wait_readable;

constexpr seconds kBriefly{2};

TreeOptions under_tls(int rank, int size, Store* store) {
  TreeOptions options = tree_options(rank, size, 8, store);
  options.tls = true;
  return options;
}

// A rank by hand that has proved the key to rank 0, and says nothing more.
struct Proved {
  Socket socket;
  SecretBytes secret;  // for TLS
};

Proved proved(int rank, Store* store) {
  Result<Socket> started = Socket::start_connect(address_of(0, store));
  EXPECT_TRUE(started.ok()) << started.status().to_string();
  Socket socket = std::move(*started);
  Identity self{Role::kRank, rank, 0, "test"};
  self.tls = true;
  InitiatorHandshake handshake(test_key(), self, Role::kRank, 0);
  const HelloBytes hello = *handshake.hello();
  pollfd entry{socket.fd(), POLLOUT, 0};
  EXPECT_EQ(::poll(&entry, 1, 60'000), 1);
  EXPECT_EQ(socket.write_some(hello).bytes, hello.size());
  FixedRead<kHelloBytes> answer;
  while (answer.read(&socket).state == FixedReadResult::State::kMore) {
    EXPECT_TRUE(wait_readable(socket));
  }
  const auto confirm = handshake.receive_hello(answer.bytes());
  EXPECT_TRUE(confirm.ok()) << confirm.status().to_string();
  EXPECT_EQ(socket.write_some(*confirm).bytes, confirm->size());
  return {std::move(socket), handshake.tls_secret()};
}

// Waits until the other side has closed it, and says how long that took.
Clock::duration until_closed(Socket& socket) {
  const auto began = Clock::now();
  std::array<std::byte, 1000> room;
  for (;;) {
    const auto transfer = socket.read_some(room);
    if (transfer.kind == Socket::Transfer::Kind::kOver) return Clock::now() - began;
    EXPECT_TRUE(wait_readable(socket));
  }
}

// Two ranks that differ: what both say.
void expect_refused(bool root_has_it) {
  MemoryStore store;
  std::vector<TreeOptions> options = {tree_options(0, 2, 1, &store), tree_options(1, 2, 1, &store)};
  options[0].timeout = kBriefly;
  options[0].tls = root_has_it;
  options[1].tls = !root_has_it;
  const auto results = connect_all(options);
  const std::string roots = root_has_it ? "KHORUS_TLS=1" : "KHORUS_TLS=0";
  const std::string childs = root_has_it ? "KHORUS_TLS=0" : "KHORUS_TLS=1";
  EXPECT_EQ(results[1].status().code(), StatusCode::kPermissionDenied) << "not a timeout";
  EXPECT_THAT(results[1].status().message(),
              AllOf(HasSubstr("rank 0, has " + roots), HasSubstr("rank 1, " + childs),
                    HasSubstr("set the same")));
  EXPECT_THAT(results[0].status().message(),
              AllOf(HasSubstr("rank 1, has " + childs), HasSubstr("rank 0, " + roots)));
}

TEST(TlsStart, RanksThatDifferAreRefusedNamingBothValuesOnBothSides) {
  std::jthread one([] { expect_refused(false); });
  expect_refused(true);
}

TEST(TlsStart, MembersThatStallInTlsHaveTheSameDeadline) {
  MemoryStore store;
  std::optional<Result<Channel>> root;
  TreeOptions options = under_tls(0, 3, &store);
  options.max_strangers = 2;
  options.stranger_timeout = milliseconds(1500);
  std::jthread root_thread([&] { root.emplace(connect_tree(options)); });
  Socket silent = proved(1, &store).socket;
  Socket slow = proved(1, &store).socket;
  // A byte of a record now and then buys no time.
  const std::string record = std::string("\x16\x03\x01\x02\x00", 5) + std::string(512, '\0');
  const auto began = Clock::now();
  size_t said = 0;
  pollfd end{slow.fd(), POLLIN, 0};
  while (::poll(&end, 1, 20) == 0 && said < record.size()) {
    static_cast<void>(slow.write_some(bytes_of(record).subspan(said++, 1)));
  }
  until_closed(slow);
  until_closed(silent);
  EXPECT_GT(said, 2u);
  EXPECT_LT(said, record.size());
  EXPECT_GT(Clock::now() - began, milliseconds(100));
  const auto ranks = connect_all({under_tls(1, 3, &store), under_tls(2, 3, &store)});
  for (const auto& rank : ranks) EXPECT_TRUE(rank.ok()) << rank.status().to_string();
  root_thread.join();
  EXPECT_TRUE(root->ok()) << root->status().to_string();
}

TEST(TlsStart, NonsenseInsteadOfTlsEndsOnlyItsConnection) {
  MemoryStore store;
  std::optional<Result<Channel>> root;
  std::jthread root_thread([&] { root.emplace(connect_tree(under_tls(0, 2, &store))); });
  for (const std::string& words :
       {std::string(5000, 'x'), std::string("\x16\x03\x01\x00\x05hello", 10)}) {
    Socket socket = proved(1, &store).socket;
    EXPECT_EQ(socket.write_some(bytes_of(words)).bytes, words.size());
    until_closed(socket);
  }
  proved(1, &store).socket.close();
  const auto rank = connect_tree(under_tls(1, 2, &store));
  EXPECT_TRUE(rank.ok()) << rank.status().to_string();
  root_thread.join();
  EXPECT_TRUE(root->ok()) << root->status().to_string();
}

// Both have proved the key before either is connected: one is, and the other is turned away when
// its TLS stands.
TEST(TlsStart, OfTwoClaimsThatBeginTlsTogetherOneIsAdmitted) {
  MemoryStore store;
  std::optional<Result<Channel>> root;
  std::jthread root_thread([&] { root.emplace(connect_tree(under_tls(0, 3, &store))); });
  Proved late = proved(1, &store);
  DialOptions as_rank_1;
  as_rank_1.address = address_of(0, &store);
  as_rank_1.key = test_key();
  as_rank_1.self = {Role::kRank, 1, 0, "test"};
  as_rank_1.self.tls = true;
  as_rank_1.peer_rank = 0;
  as_rank_1.deadline = patience();
  auto first = dial_and_wait(as_rank_1);
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  EXPECT_FALSE(dial_and_wait(as_rank_1).ok()) << "now the first one is connected";

  Stream late_stream(std::move(late.socket));
  late_stream.start_tls(*TlsContext::make(), Tls::Side::kInitiator, late.secret);
  Tls::Progress progress = late_stream.handshake_tls();
  while (progress.state == Tls::Progress::State::kMore) {
    EXPECT_TRUE(wait_readable(late_stream.socket()));
    progress = late_stream.handshake_tls();
  }
  EXPECT_EQ(progress.state, Tls::Progress::State::kDone) << progress.reason;
  until_closed(late_stream.socket());

  Connection rank_1(std::move(first->stream), first->keys);
  ASSERT_TRUE(rank_1.send(bytes_of("ready")).ok());
  const auto rank_2 = connect_tree(under_tls(2, 3, &store));
  EXPECT_TRUE(rank_2.ok()) << rank_2.status().to_string();
  root_thread.join();
  EXPECT_TRUE(root->ok()) << root->status().to_string();
}

}  // namespace
}  // namespace khorus::net
