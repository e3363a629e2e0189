// The start of a job that has lost a rank: every other rank is told, at once, whom it waits for in
// vain; by the launcher, by a neighbour on the same machine, or by the next round.
#include "core/net/start_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <future>

#include "core/net/ended_ranks.h"
#include "core/net/rounds.h"
#include "core/net/socket.h"
#include "core/net/store_server.h"
#include "core/net/tcp_store.h"
#include "tests/unit/net/support.h"

namespace khorus::net {
namespace {

using ::testing::AllOf;
using testing::Channel;
using testing::Clock;
using ::testing::HasSubstr;
using testing::seconds;
using testing::test_key;
using testing::tree_options;

constexpr int kSize = 7;
constexpr int kFanIn = 2;
// Between the start's timeout in these tests (60 s) and what the news takes.
constexpr seconds kSoon{20};

// The ranks of a tree but one, which has announced itself and does not answer, or is gone.
class Survivors {
 public:
  explicit Survivors(int victim, bool is_gone = false)
      : victim_(victim), listening_(Socket::listen(loopback_address()).value()) {
    const std::string address = listening_.local_address().to_string();
    if (is_gone) listening_.close();
    EXPECT_TRUE(store_.set(address_key(0, victim), bytes_of(address)).ok());
  }

  void start(const std::function<void(TreeOptions*)>& change) {
    for (int rank = 0; rank < kSize; ++rank) {
      if (rank == victim_) continue;
      TreeOptions options = tree_options(rank, kSize, kFanIn, &store_);
      change(&options);
      results_.push_back(
          std::async(std::launch::async, [options] { return connect_tree(options); }));
    }
    for (int rank = 0; rank < kSize; ++rank) {
      EXPECT_TRUE(store_.get(address_key(0, rank), seconds(60)).ok());
    }
  }

  // From now on they have little time.
  std::vector<Status> end() {
    const auto deadline = Clock::now() + kSoon;
    std::vector<Status> out;
    for (auto& result : results_) out.push_back(result.get().status());
    EXPECT_LT(Clock::now(), deadline);
    return out;
  }

  MemoryStore& store() { return store_; }

 private:
  const int victim_;
  Socket listening_;
  MemoryStore store_;
  std::vector<std::future<Result<Channel>>> results_;
};

void expect_all_name(const std::vector<Status>& results, int victim, const std::string& how) {
  EXPECT_EQ(results.size(), static_cast<size_t>(kSize - 1));
  for (const Status& status : results) {
    EXPECT_EQ(status.code(), StatusCode::kPeerLost) << status.to_string();
    EXPECT_EQ(status.lost_rank(), victim);
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("rank " + std::to_string(victim) + " on node1 (pid 4711)"),
                      HasSubstr(how), HasSubstr("7 ranks")));
  }
}

// The root, inner ranks and leaves.
TEST(StartWatch, WhomTheLauncherHasSeenEndIsNamedByAll) {
  for (const int victim : {0, 1, 2, 4, 6}) {
    Survivors others(victim);
    uint64_t next = 0;
    std::jthread launcher([&] {
      for (int rank = 0; rank < kSize; ++rank) {
        EXPECT_TRUE(others.store().get(address_key(0, rank), seconds(60)).ok());
      }
      EXPECT_TRUE(
          tell_end(others.store(), &next, {victim, "node1 (pid 4711)", "exit code 3"}).ok());
    });
    others.start([](TreeOptions* options) { options->ends_are_told = true; });
    expect_all_name(others.end(), victim, "exit code 3");
  }
}

TEST(StartWatch, WhoHadEndedBeforeIsNamed) {
  for (const int victim : {0, 1, 6}) {
    Survivors others(victim, true);
    uint64_t next = 0;
    ASSERT_TRUE(tell_end(others.store(), &next, {victim, "node1 (pid 4711)", "exit code 3"}).ok());
    others.start([](TreeOptions* options) { options->ends_are_told = true; });
    expect_all_name(others.end(), victim, "exit code 3");
  }
}

TEST(StartWatch, ANeighbourThatSeesTheProcessEndTellsAll) {
  for (const int victim : {0, 1, 6}) {
    Survivors others(victim);
    const int end_of_victim = ::eventfd(0, EFD_CLOEXEC);
    ASSERT_TRUE(others.store().set(process_key(0, victim), bytes_of("victim")).ok());
    others.start([&](TreeOptions* options) {
      options->host = "node1";
      options->processes.self = [] { return std::string("other"); };
      options->processes.open = [&](const std::string& process) {
        return process == "victim" ? ProcessTable::Handle{::dup(end_of_victim), 4711}
                                   : ProcessTable::Handle{};
      };
    });
    ASSERT_EQ(::eventfd_write(end_of_victim, 1), 0);
    expect_all_name(others.end(), victim, "its process is gone");
    ::close(end_of_victim);
  }
}

TEST(StartWatch, TheNextRoundEndsThisOne) {
  Survivors others(3);
  others.start([](TreeOptions* options) {
    options->ends_are_told = true;
    options->next_round = round_key(1);
  });
  ASSERT_TRUE(begin_round(others.store(), 1, kSize, "khorusrun, because rank 3 failed").ok());
  for (const Status& status : others.end()) {
    EXPECT_EQ(status.code(), StatusCode::kPeerLost) << status.to_string();
    EXPECT_EQ(status.lost_rank(), -1);
    EXPECT_THAT(status.message(), HasSubstr("khorusrun, because rank 3 failed"));
  }
}

TEST(StartWatch, ProcessesThatAreNoRanksOfThisTreeMayEnd) {
  MemoryStore store;
  uint64_t next = 0;
  ASSERT_TRUE(tell_end(store, &next, {kSize, "node1 (pid 4711)", "exit code 0"}).ok());
  ASSERT_TRUE(tell_end(store, &next, {kSize + 1, "node1 (pid 4712)", "exit code 0"}).ok());
  std::vector<TreeOptions> options;
  for (int rank = 0; rank < kSize; ++rank) {
    options.push_back(tree_options(rank, kSize, kFanIn, &store));
    options.back().ends_are_told = true;
  }
  for (const auto& result : testing::connect_all(options)) {
    EXPECT_TRUE(result.ok()) << result.status().to_string();
  }
}

TEST(StartWatch, AStoreThatIsGoneEndsTheStart) {
  StoreServerOptions serving;
  serving.key = test_key();
  serving.job_id = "test";
  auto server = StoreServer::start(serving);
  ASSERT_TRUE(server.ok());
  TcpStoreOptions client;
  client.address = (*server)->address();
  client.key = test_key();
  client.job_id = "test";
  const auto store = TcpStore::connect(client);
  const auto other = TcpStore::connect(client);
  ASSERT_TRUE(store.ok() && other.ok());
  auto root = std::async(std::launch::async,
                         [&] { return connect_tree(tree_options(0, 2, 1, store->get())); });
  ASSERT_TRUE((*other)->get(address_key(0, 0), seconds(60)).ok());
  const auto deadline = Clock::now() + kSoon;
  (*server)->stop();
  const Status status = root.get().status();
  EXPECT_LT(Clock::now(), deadline);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr("the store at " + client.address + " is gone"));
}

TEST(EndedRanks, EveryoneHasANumberAndTextsAreHarmless) {
  MemoryStore store;
  uint64_t one = 0;
  uint64_t other = 0;
  ASSERT_TRUE(tell_end(store, &one, {1, "a", "\x1b[2Jexit\ncode"}).ok());
  ASSERT_TRUE(tell_end(store, &other, {2, "b", "c"}).ok());
  ASSERT_TRUE(tell_end(store, &one, {3, "d", "e"}).ok());
  EXPECT_EQ(one, 3u);
  EXPECT_EQ(other, 2u);
  const auto first = decode_ended_rank(*store.get(ended_key(0), seconds(0)));
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->rank, 1);
  EXPECT_EQ(first->how, "?[2Jexit?code");
  EXPECT_EQ(decode_ended_rank(*store.get(ended_key(2), seconds(0)))->rank, 3);
  for (const char* bad : {"", "x", "-1\na\nb\n", "1x\n", "99999999999\n"}) {
    EXPECT_FALSE(decode_ended_rank(bytes_of(bad)).has_value()) << bad;
  }
}

}  // namespace
}  // namespace khorus::net
