// Whom the others waited for: counted once, named at the end.
#include "core/protocol/straggler_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace khorus::protocol {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr TimeUs kMs = 1000;

// The table of a root, and what its ranks submit.
class Stragglers : public testing::Test {
 protected:
  explicit Stragglers(StragglerReport report = StragglerReport::kAlways) : watch_(report) {}

  void submit(const std::string& name, const std::vector<int32_t>& ranks, TimeUs now,
              OpKind kind = OpKind::kAllreduce) {
    wire::Contribution contribution;
    contribution.request.name = name;
    contribution.request.kind = kind;
    contribution.ranks = wire::RankSet::of(ranks);
    TableEntry* entry = table_.add(contribution, wire::RankSet::all(size_), now);
    ASSERT_NE(entry, nullptr);
    watch_.arrived(entry, contribution.ranks, now);
    if (entry->complete()) table_.erase(TensorKey(entry->key));
  }
  std::string report(TimeUs now) const { return watch_.report({}, now).value_or("nothing"); }

  int size_ = 4;
  RequestTable table_;
  StragglerWatch watch_;
};

TEST_F(Stragglers, WaitingBeginsWhenHalfAreThere) {
  submit("a", {0}, 1000 * kMs);
  submit("a", {1}, 1400 * kMs);  // half
  submit("a", {2}, 1500 * kMs);
  submit("a", {3}, 2400 * kMs);
  const std::string text = report(3000 * kMs);
  EXPECT_THAT(text, HasSubstr("in 2.0 s with 1 operations the others waited 1.0 s (50.0 %) for "
                              "rank 3, the last to submit 1 of them"));
  EXPECT_THAT(text, HasSubstr("0.1 s (5.0 %) for rank 2, the last to submit 0 of them"));
  EXPECT_THAT(text, Not(HasSubstr("rank 1")));
}

TEST_F(Stragglers, TimeInWhichManyOperationsWaitCountsOnce) {
  for (int i = 0; i < 10; ++i) submit("t" + std::to_string(i), {0, 1, 2}, (1000 + i * 10) * kMs);
  for (int i = 0; i < 10; ++i) submit("t" + std::to_string(i), {3}, (2000 + i * 10) * kMs);
  EXPECT_THAT(report(2100 * kMs), HasSubstr("waited 1.1 s (99.1 %) for rank 3"));
}

TEST_F(Stragglers, OwnExchangesAndSinglesAreNotCounted) {
  submit("x", {0, 1, 2}, 1 * kMs, OpKind::kExchange);
  submit("x", {3}, 9000 * kMs, OpKind::kExchange);
  submit("all at once", {0, 1, 2, 3}, 9001 * kMs);
  EXPECT_EQ(report(9002 * kMs), "nothing");
}

TEST_F(Stragglers, AtMostEightAreNamed) {
  size_ = 20;
  std::vector<int32_t> early;
  for (int rank = 0; rank < 10; ++rank) early.push_back(rank);
  submit("a", early, 1 * kMs);
  for (int rank = 10; rank < 20; ++rank) submit("a", {rank}, rank * 100 * kMs);
  EXPECT_THAT(report(2000 * kMs), HasSubstr("; less for 2 more ranks"));
}

class Noteworthy : public Stragglers {
 protected:
  Noteworthy() : Stragglers(StragglerReport::kWhenNoteworthy) {}

  // `steps` of 100 ms, to each of which rank `r % among` is `late` after the others.
  std::string after(int steps, TimeUs late, int among) {
    TimeUs now = 1000 * kMs;
    for (int i = 0; i < steps; ++i, now += 100 * kMs) {
      const int32_t last = i % among;
      std::vector<int32_t> others;
      for (int32_t rank = 0; rank < size_; ++rank) {
        if (rank != last) others.push_back(rank);
      }
      submit("g", others, now);
      submit("g", {last}, now + late);
    }
    return report(now);
  }
};

TEST_F(Noteworthy, OneRankThatCostsMoreThanATenth) {
  EXPECT_THAT(after(200, 20 * kMs, 1), HasSubstr("rank 0, the last to submit 200 of them"));
}
TEST_F(Noteworthy, NotALittle) { EXPECT_EQ(after(200, 5 * kMs, 1), "nothing"); }
TEST_F(Noteworthy, NotAShortJob) { EXPECT_EQ(after(50, 90 * kMs, 1), "nothing"); }
TEST_F(Noteworthy, NotWhenTheyTakeTurns) { EXPECT_EQ(after(200, 90 * kMs, 4), "nothing"); }

TEST(StragglersOff, NothingIsSaid) {
  StragglerWatch watch(StragglerReport::kOff);
  EXPECT_FALSE(watch.enabled());
  EXPECT_FALSE(watch.report({}, 1).has_value());
}

}  // namespace
}  // namespace khorus::protocol
