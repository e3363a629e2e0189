// Rounds: the ranks of a job whose launcher restarts them meet in the same one, or in none.
#include "core/net/rounds.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <vector>

#include "core/net/memory_store.h"

namespace khorus::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::future<Result<uint64_t>> seek(Store& store, int rank, int size, uint64_t first = 0) {
  return std::async(std::launch::async, [&store, rank, size, first] {
    return enter_round(store, {rank, size, first, seconds(20)});
  });
}

// Whether `rank` has said "here" in `round`; waits for it.
void wait_until_here(Store& store, uint64_t round, int rank) {
  const std::string key = "rounds/" + std::to_string(round) + "/" + std::to_string(rank);
  ASSERT_TRUE(store.get(key, seconds(20)).ok());
}

TEST(Rounds, OnlyALauncherThatRestartsHasThem) {
  MemoryStore store;
  EXPECT_FALSE(*has_rounds(store));
  ASSERT_TRUE(allow_rounds(store).ok());
  EXPECT_TRUE(*has_rounds(store));
}

TEST(Rounds, AllMeetInTheFirst) {
  MemoryStore store;
  auto one = seek(store, 1, 2);
  EXPECT_EQ(*enter_round(store, {0, 2, 0, seconds(20)}), 0u);
  EXPECT_EQ(*one.get(), 0u);
}

TEST(Rounds, WhoLostARankWaitsForItInTheNext) {
  MemoryStore store;
  auto survivor = seek(store, 0, 2, 1);
  EXPECT_EQ(survivor.wait_for(milliseconds(20)), std::future_status::timeout);
  EXPECT_EQ(*begin_round(store, 1, 2), 2u);  // the survivor has begun round 1
  auto newcomer = seek(store, 1, 2);
  EXPECT_EQ(*survivor.get(), 2u);
  EXPECT_EQ(*newcomer.get(), 2u);
}

TEST(Rounds, RanksThatFailedTogetherMeetWithoutTheLauncher) {
  MemoryStore store;
  auto zero = seek(store, 0, 2, 5);
  auto one = seek(store, 1, 2, 5);
  EXPECT_EQ(*zero.get(), 5u);
  EXPECT_EQ(*one.get(), 5u);
  EXPECT_TRUE(*has_begun(store, 5));
  EXPECT_FALSE(*has_begun(store, 6));
}

TEST(Rounds, ARankLostWhileOthersWaitMakesThemAllGoOn) {
  MemoryStore store;
  auto zero = seek(store, 0, 3);
  auto one = seek(store, 1, 3);
  wait_until_here(store, 0, 0);
  wait_until_here(store, 0, 1);
  EXPECT_EQ(*begin_round(store, 1, 3), 1u);  // rank 2 never came
  EXPECT_EQ(*begin_round(store, 2, 3), 2u);  // nor did its successor
  auto two = seek(store, 2, 3);
  for (auto* rank : {&zero, &one, &two}) EXPECT_EQ(*rank->get(), 2u);
}

TEST(Rounds, OneThatWasHereAndDiedDoesNotCountInTheNext) {
  MemoryStore store;
  auto dead = seek(store, 1, 3);
  wait_until_here(store, 0, 1);
  auto zero = seek(store, 0, 3);
  wait_until_here(store, 0, 0);
  EXPECT_EQ(*begin_round(store, 1, 3), 1u);
  EXPECT_FALSE(store.set("rounds/0/2", std::as_bytes(std::span("here", 4))).ok());
  wait_until_here(store, 1, 0);
  EXPECT_EQ(zero.wait_for(milliseconds(20)), std::future_status::timeout);  // rank 2 is not there
  auto two = seek(store, 2, 3);
  EXPECT_EQ(*zero.get(), 1u);
  EXPECT_EQ(*two.get(), 1u);
  EXPECT_EQ(*dead.get(), 1u);  // stands for its successor here
}

TEST(Rounds, WhoeverBeganARoundMayDieBeforeTheOneBeforeIsVoid) {
  MemoryStore store;
  auto zero = seek(store, 0, 2);
  wait_until_here(store, 0, 0);
  ASSERT_TRUE(store.set("rounds/1", std::as_bytes(std::span("rank 1", 6))).ok());
  EXPECT_EQ(*begin_round(store, 1, 2), 2u);
  auto one = seek(store, 1, 2);
  EXPECT_EQ(*zero.get(), 2u);
  EXPECT_EQ(*one.get(), 2u);
}

TEST(Rounds, NobodyWaitsForOneThatHasEnded) {
  MemoryStore store;
  auto early = seek(store, 0, 3, 1);
  wait_until_here(store, 1, 0);
  const Result<uint64_t> last = begin_round(store, 1, 3);
  ASSERT_TRUE(note_ended(store, *last, 2).ok());
  auto late = seek(store, 1, 3, 1);
  for (auto* rank : {&early, &late}) {
    const auto met = rank->get();
    EXPECT_EQ(met.status().code(), StatusCode::kShutdown);
    EXPECT_THAT(met.status().message(), ::testing::HasSubstr("rank 2 has ended well"));
  }
}

TEST(Rounds, WaitingInVainSaysForWhom) {
  MemoryStore store;
  const auto alone = enter_round(store, {0, 2, 0, milliseconds(10)});
  EXPECT_EQ(alone.status().code(), StatusCode::kTimeout);
  EXPECT_THAT(alone.status().message(), ::testing::HasSubstr("rank 1 to meet again"));
}

}  // namespace
}  // namespace khorus::net
