// The request table: contributions gather by name; what differs is kept apart; what is wrong is
// refused.
#include "core/protocol/request_table.h"

#include <gtest/gtest.h>

#include <string>

namespace khorus::protocol {
namespace {

using wire::RankSet;

wire::Contribution contribution(const std::string& name, RankSet ranks, Shape shape = {2}) {
  wire::Contribution contribution;
  contribution.request.name = name;
  contribution.request.shape = std::move(shape);
  contribution.ranks = std::move(ranks);
  return contribution;
}

TEST(RequestTable, AnEntryIsCompleteWhenAllNeededRanksAreThere) {
  RequestTable table;
  const RankSet needed = RankSet::all(4);
  TableEntry* entry = table.add(contribution("w", RankSet::of({0, 2})), needed, 5);
  ASSERT_NE(entry, nullptr);
  EXPECT_FALSE(entry->complete());
  EXPECT_EQ(entry->missing(), RankSet::of({1, 3}));
  EXPECT_EQ(entry->first_seen, 5);
  entry = table.add(contribution("w", RankSet::of({1, 3})), needed, 9);
  EXPECT_TRUE(entry->complete());
  EXPECT_EQ(entry->variants.size(), 1U);
  EXPECT_EQ(entry->first_seen, 5);
  EXPECT_EQ(table.size(), 1U);
}

TEST(RequestTable, DifferentRequestsAreVariants) {
  RequestTable table;
  const RankSet needed = RankSet::all(3);
  table.add(contribution("w", RankSet::of({0})), needed, 0);
  TableEntry* entry = table.add(contribution("w", RankSet::of({1, 2}), {3}), needed, 0);
  ASSERT_EQ(entry->variants.size(), 2U);
  EXPECT_EQ(entry->variants[1].ranks, RankSet::of({1, 2}));
  EXPECT_TRUE(entry->complete());
}

TEST(RequestTable, ASecondContributionOfARankIsRefused) {
  RequestTable table;
  table.add(contribution("w", RankSet::of({0, 1})), RankSet::all(3), 0);
  EXPECT_EQ(table.add(contribution("w", RankSet::of({1, 2})), RankSet::all(3), 0), nullptr);
  EXPECT_EQ(table.find({0, "w"})->ranks, RankSet::of({0, 1}));
}

TEST(RequestTable, RanksThatAreNotNeededAreRefused) {
  RequestTable table;
  EXPECT_EQ(table.add(contribution("w", RankSet::of({5})), RankSet::all(3), 0), nullptr);
  EXPECT_EQ(table.add(contribution("w", RankSet()), RankSet::all(3), 0), nullptr);
  EXPECT_EQ(table.size(), 0U);
}

TEST(RequestTable, ExtentsAndPayloadsFindTheirRanks) {
  RequestTable table;
  wire::Contribution first = contribution("rows", RankSet::of({1, 3}), {0, 4});
  first.extents = {10, 30};
  table.add(first, RankSet::all(4), 0);
  wire::Contribution second = contribution("rows", RankSet::of({0, 2}), {0, 4});
  second.extents = {0, 20};
  const TableEntry* entry = table.add(second, RankSet::all(4), 0);
  ASSERT_EQ(entry->variants.size(), 1U);
  EXPECT_EQ(entry->variants[0].extents,
            (std::map<int32_t, int64_t>{{0, 0}, {1, 10}, {2, 20}, {3, 30}}));
  const wire::Contribution part = contribution_of(entry->variants[0], RankSet::of({2, 3}));
  EXPECT_EQ(part.ranks, RankSet::of({2, 3}));
  EXPECT_EQ(part.extents, (std::vector<int64_t>{20, 30}));
}

TEST(RequestTable, NamesOfProcessSetsAreApart) {
  RequestTable table;
  wire::Contribution other = contribution("w", RankSet::single(0));
  other.request.process_set = 1;
  table.add(contribution("w", RankSet::single(0)), RankSet::all(2), 0);
  EXPECT_NE(table.add(other, RankSet::all(2), 0), nullptr);
  EXPECT_EQ(table.size(), 2U);
}

TEST(RequestTable, EntriesKeepTheOrderOfArrival) {
  RequestTable table;
  const uint64_t a = table.add(contribution("a", RankSet::single(0)), RankSet::all(2), 0)->order;
  const uint64_t b = table.add(contribution("b", RankSet::single(0)), RankSet::all(2), 0)->order;
  EXPECT_LT(a, b);
  EXPECT_EQ(table.add(contribution("a", RankSet::single(1)), RankSet::all(2), 0)->order, a);
}

TEST(RequestTable, AFailedGroupLeavesWhatOthersSubmittedOutsideIt) {
  RequestTable table;
  const RankSet needed = RankSet::all(4);
  wire::Contribution grouped = contribution("w", RankSet::of({0, 1}));
  grouped.request.group = "g";
  table.add(grouped, needed, 0);
  table.add(contribution("w", RankSet::of({2})), needed, 0);  // the same name, not in the group
  grouped.request.name = "v";
  table.add(grouped, needed, 0);
  table.erase_group(0, "g");
  EXPECT_EQ(table.find({0, "v"}), nullptr);
  const TableEntry* rest = table.find({0, "w"});
  ASSERT_NE(rest, nullptr) << "rank 2 still waits for it";
  EXPECT_EQ(rest->ranks, RankSet::of({2}));
  EXPECT_NE(table.add(contribution("w", RankSet::of({0, 1, 3})), needed, 0), nullptr);
  EXPECT_TRUE(table.find({0, "w"})->complete());
}

}  // namespace
}  // namespace khorus::protocol
