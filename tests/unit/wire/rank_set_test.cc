// RankSet against std::set<int>: the same operations, the same members.
#include "core/wire/rank_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

namespace khorus::wire {
namespace {

using Model = std::set<int32_t>;

RankSet set_of(const Model& model) { return RankSet::of({model.begin(), model.end()}); }

void expect_same(const RankSet& set, const Model& model) {
  ASSERT_EQ(set.to_vector(), std::vector<int32_t>(model.begin(), model.end()));
  EXPECT_EQ(set.count(), static_cast<int64_t>(model.size()));
  EXPECT_EQ(set.empty(), model.empty());
  if (!model.empty()) {
    EXPECT_EQ(set.first(), *model.begin());
  }
  // Normal form: what from_intervals demands of others.
  RankSet again;
  EXPECT_TRUE(RankSet::from_intervals(set.intervals(), &again));
  EXPECT_EQ(again, set);
}

Model random_model(std::mt19937* random) {
  Model model;
  for (auto i = (*random)() % 30; i > 0; --i) {
    model.insert(static_cast<int32_t>((*random)() % 40));
  }
  return model;
}

TEST(RankSet, BehavesAsAStdSet) {
  std::mt19937 random(1);
  for (int round = 0; round < 3000; ++round) {
    const Model a = random_model(&random);
    const Model b = random_model(&random);
    const RankSet x = set_of(a);
    const RankSet y = set_of(b);
    expect_same(x, a);
    Model model_union = a;
    model_union.insert(b.begin(), b.end());
    RankSet both = x;
    both.add_all(y);
    expect_same(both, model_union);
    Model difference;
    std::set_difference(a.begin(), a.end(), b.begin(), b.end(),
                        std::inserter(difference, difference.end()));
    expect_same(x.minus(y), difference);
    RankSet removed = x;
    removed.remove_all(y);
    expect_same(removed, difference);
    EXPECT_EQ(x.contains_all(y), std::includes(a.begin(), a.end(), b.begin(), b.end()));
    EXPECT_EQ(x.intersects(y), difference.size() != a.size());
    EXPECT_EQ(x == y, a == b);
    for (int32_t rank = 0; rank < 41; ++rank) EXPECT_EQ(x.contains(rank), a.contains(rank));
  }
}

TEST(RankSet, RangesMergeWhereTheyTouch) {
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    RankSet set;
    Model model;
    for (int i = 0; i < 6; ++i) {
      const auto first = static_cast<int32_t>(random() % 50);
      const auto last = static_cast<int32_t>(first + static_cast<int32_t>(random() % 8));
      set.add_range(first, last);
      for (int32_t rank = first; rank <= last; ++rank) model.insert(rank);
      expect_same(set, model);
    }
  }
}

TEST(RankSet, ReadsAsPeopleWriteIt) {
  EXPECT_EQ(RankSet().to_string(), "");
  EXPECT_EQ(RankSet::of({0, 1, 2, 4, 5, 6, 7}).to_string(), "0-2,4-7");
  EXPECT_EQ(RankSet::of({3}).to_string(), "3");
  EXPECT_EQ(RankSet::of({3, 4, 9}).to_string(), "3,4,9");
  EXPECT_EQ(RankSet::all(1024).to_string(), "0-1023");
  EXPECT_TRUE(RankSet::all(0).empty());
}

TEST(RankSet, RefusesIntervalsThatAreNotNormal) {
  RankSet out;
  EXPECT_TRUE(RankSet::from_intervals({}, &out));
  EXPECT_TRUE(RankSet::from_intervals({{0, 0}, {2, 5}}, &out));
  EXPECT_EQ(out, RankSet::of({0, 2, 3, 4, 5}));
  EXPECT_FALSE(RankSet::from_intervals({{0, 1}, {2, 5}}, &out));  // they touch
  EXPECT_FALSE(RankSet::from_intervals({{4, 5}, {0, 1}}, &out));  // out of order
  EXPECT_FALSE(RankSet::from_intervals({{0, 3}, {2, 5}}, &out));  // they overlap
  EXPECT_FALSE(RankSet::from_intervals({{3, 2}}, &out));          // backwards
  EXPECT_FALSE(RankSet::from_intervals({{-1, 2}}, &out));         // negative
  EXPECT_EQ(out, RankSet::of({0, 2, 3, 4, 5})) << "a refusal leaves the set alone";
}

TEST(RankSetDeathTest, BackwardsRangesAreAProgrammersError) {
  EXPECT_DEATH(RankSet::range(3, 2), "rank interval");
}

}  // namespace
}  // namespace khorus::wire
