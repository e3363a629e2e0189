// The stall inspector: asks in time, reports in time, says who is missing and what it did last, and
// does not repeat itself.
#include "core/protocol/stall_inspector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace khorus::protocol {
namespace {

using testing::HasSubstr;
using wire::RankSet;

constexpr TimeUs kSecond = 1'000'000;
constexpr TimeUs kWarning = 60 * kSecond;

class Stall : public testing::Test {
 protected:
  Stall() {
    for (int rank = 0; rank < 4; ++rank)
      peers_.push_back({"node-" + std::to_string(rank), 70 + rank});
  }
  void submit(const std::string& name, RankSet ranks, TimeUs now) {
    wire::Contribution contribution;
    contribution.request.name = name;
    contribution.ranks = std::move(ranks);
    ASSERT_NE(table_.add(contribution, RankSet::all(4), now), nullptr);
  }
  StallInspector::Verdict inspect(TimeUs now) {
    return inspector_.inspect(table_, join_ ? &*join_ : nullptr, {peers_, sets_}, now);
  }
  void answer(int32_t rank, const std::string& last, TimeUs now) {
    inspector_.answer({1, rank, last, 1500, 12, 2}, now);
  }
  // Inspects whenever it is due until `end`; the texts of the reports by time.
  std::map<TimeUs, std::string> run_until(TimeUs end, TimeUs now = 0) {
    std::map<TimeUs, std::string> reports;
    while (now <= end) {
      const StallInspector::Verdict verdict = inspect(now);
      if (verdict.query) ++queries_;
      if (verdict.report) reports[now] = *verdict.report;
      if (verdict.deadline == kNever) break;
      EXPECT_GT(verdict.deadline, now) << "no spinning";
      now = std::max(verdict.deadline, now + 1);
    }
    return reports;
  }

  RequestTable table_;
  std::vector<PeerInfo> peers_;
  ProcessSets sets_{4};
  std::optional<TableEntry> join_;
  StallInspector inspector_{kWarning, 0};
  int queries_ = 0;
};

TEST_F(Stall, ReportsWithinTheWarningTimeWithWhatTheMissingDidLast) {
  submit("w", RankSet::of({0, 1, 3}), 0);
  EXPECT_EQ(inspect(0).deadline, kWarning / 2);
  const StallInspector::Verdict asked = inspect(kWarning / 2);
  ASSERT_TRUE(asked.query.has_value());
  EXPECT_EQ(asked.query->ranks, RankSet::single(2));
  EXPECT_FALSE(asked.report.has_value());
  answer(2, "allreduce \"v\"", kWarning / 2 + 1000);
  ASSERT_LE(asked.deadline, kWarning);
  const StallInspector::Verdict told = inspect(asked.deadline);
  ASSERT_TRUE(told.report.has_value());
  EXPECT_EQ(*told.report,
            "stall: allreduce \"w\" has waited 45.0 s for rank 2 (node-2), submitted by ranks "
            "0,1,3. rank 2 (node-2, pid 72) last submitted allreduce \"v\" 16.5 s ago (12 "
            "operations so far, 2 of them waiting)");
}

TEST_F(Stall, SaysSoWhenTheMissingDoNotAnswer) {
  submit("w", RankSet::of({0, 1}), 0);
  const auto reports = run_until(kWarning);
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_THAT(reports.begin()->second, HasSubstr("for ranks 2,3, submitted by ranks 0,1. rank 2 "
                                                 "(node-2, pid 72) has not answered; rank 3"));
}

TEST_F(Stall, ARankThatHasDoneNothingIsNamedSo) {
  submit("w", RankSet::of({0, 1, 2}), 0);
  inspect(kWarning / 2);
  answer(3, "", kWarning / 2);
  EXPECT_THAT(*inspect(kWarning).report,
              HasSubstr("rank 3 (node-3, pid 73) has submitted nothing"));
}

TEST_F(Stall, RepeatsOnlyWhenTheAgeHasDoubledAndAsksBeforeEachReport) {
  submit("w", RankSet::of({0}), 0);
  const auto reports = run_until(20 * kWarning);
  EXPECT_LE(reports.size(), 6U);
  EXPECT_GE(reports.size(), 4U);
  EXPECT_EQ(queries_, static_cast<int>(reports.size()));
}

TEST_F(Stall, ChangedMissingRanksAreToldSoon) {
  submit("w", RankSet::of({0}), 0);
  inspect(kWarning / 2);
  ASSERT_TRUE(inspect(kWarning * 3 / 4).report.has_value());
  submit("w", RankSet::of({1, 2}), kWarning);
  const auto reports = run_until(kWarning * 5 / 4, kWarning);
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_THAT(reports.begin()->second, HasSubstr("for rank 3 (node-3), submitted by ranks 0-2."));
}

TEST_F(Stall, ATrickleOfRanksDoesNotAskEveryTime) {
  submit("w", RankSet::of({0}), 0);
  run_until(kWarning);
  queries_ = 0;
  submit("w", RankSet::of({1}), kWarning);
  for (TimeUs now = kWarning; now < kWarning + 1000; ++now) queries_ += inspect(now).query ? 1 : 0;
  EXPECT_EQ(queries_, 1);
}

TEST_F(Stall, AnotherWaitOfTheSameNameStartsAfresh) {
  submit("w", RankSet::of({0}), 0);
  run_until(kWarning);
  table_.clear();
  submit("w", RankSet::of({1}), 2 * kWarning);
  EXPECT_FALSE(inspect(2 * kWarning).report.has_value());
  EXPECT_EQ(inspect(2 * kWarning).deadline, 2 * kWarning + kWarning / 2);
  EXPECT_TRUE(inspect(2 * kWarning + kWarning / 2).query.has_value());
}

TEST_F(Stall, NamesTheFirstOperationsAndCountsTheRest) {
  for (int i = 0; i < 12; ++i) submit("w" + std::to_string(i), RankSet::of({0}), 0);
  const std::string report = run_until(kWarning).begin()->second;
  EXPECT_THAT(report, HasSubstr("\"w0\" has waited"));
  EXPECT_THAT(report, HasSubstr("; and 4 more operations. "));
}

TEST_F(Stall, GivesUpAfterTheShutdownTime) {
  inspector_ = StallInspector(kWarning, 3 * kWarning);
  submit("w", RankSet::of({0, 1, 2}), 0);
  EXPECT_FALSE(inspect(3 * kWarning - 1).give_up.has_value());
  const StallInspector::Verdict verdict = inspect(3 * kWarning);
  ASSERT_TRUE(verdict.give_up.has_value());
  EXPECT_THAT(*verdict.give_up, HasSubstr("allreduce \"w\" has waited 180.0 s for rank 3"));
}

TEST_F(Stall, NamesTheProcessSet) {
  ASSERT_EQ(sets_.add(RankSet::of({0, 2})), 1);
  wire::Contribution contribution;
  contribution.request.name = "w";
  contribution.request.process_set = 1;
  contribution.ranks = RankSet::single(0);
  ASSERT_NE(table_.add(contribution, RankSet::of({0, 2}), 0), nullptr);
  EXPECT_THAT(run_until(kWarning).begin()->second,
              HasSubstr("allreduce \"w\" in process set 1 (ranks 0,2) has waited 45.0 s for rank 2 "
                        "(node-2), submitted by rank 0 (node-0). "));
}

TEST_F(Stall, AJoinNamesThoseThatHaveNotJoined) {
  join_.emplace();
  join_->variants.emplace_back().request.kind = OpKind::kJoin;
  join_->key = key_of(join_->variants.front().request);
  join_->needed = RankSet::all(4);
  join_->ranks = RankSet::of({0, 1, 3});
  join_->first_seen = 7;
  EXPECT_EQ(inspect(7).deadline, 7 + kWarning / 2);
  EXPECT_EQ(inspect(7 + kWarning / 2).query->ranks, RankSet::single(2));
  answer(2, "allreduce \"v\"", kWarning / 2 + 1000);
  EXPECT_THAT(*inspect(7 + kWarning * 3 / 4).report,
              HasSubstr("join has waited 45.0 s for rank 2 (node-2), joined by ranks 0,1,3. rank 2 "
                        "(node-2, pid 72) last submitted allreduce \"v\""));
  // Something was submitted meanwhile: the wait starts afresh.
  join_->first_seen = kWarning;
  EXPECT_EQ(inspect(kWarning).deadline, kWarning + kWarning / 2);
}

TEST_F(Stall, AnEmptyTableNeedsNoTimer) { EXPECT_EQ(inspect(5).deadline, kNever); }

}  // namespace
}  // namespace khorus::protocol
