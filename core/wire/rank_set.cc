// See rank_set.h.
#include "core/wire/rank_set.h"

#include <algorithm>

#include "core/base/assert.h"

namespace khorus::wire {

RankSet RankSet::range(int32_t first, int32_t last) {
  RankSet set;
  set.add_range(first, last);
  return set;
}

RankSet RankSet::of(const std::vector<int32_t>& ranks) {
  RankSet set;
  for (int32_t rank : ranks) set.add(rank);
  return set;
}

void RankSet::add_range(int32_t first, int32_t last) {
  KHORUS_ASSERT(first >= 0 && first <= last, "a rank interval must be 0 <= first <= last");
  // The intervals that overlap or touch [first, last] are replaced by their union with it.
  auto begin = std::lower_bound(intervals_.begin(), intervals_.end(), first,
                                [](const Interval& i, int32_t rank) { return i.last < rank - 1; });
  auto end = begin;
  while (end != intervals_.end() && end->first <= last + 1) {
    first = std::min(first, end->first);
    last = std::max(last, end->last);
    ++end;
  }
  if (begin == end) {
    intervals_.insert(begin, Interval{first, last});
    return;
  }
  *begin = Interval{first, last};
  intervals_.erase(begin + 1, end);
}

void RankSet::add_all(const RankSet& other) {
  for (const Interval& i : other.intervals_) add_range(i.first, i.last);
}

void RankSet::remove_all(const RankSet& other) {
  if (!other.empty() && !empty()) *this = minus(other);
}

bool RankSet::contains(int32_t rank) const noexcept {
  auto it = std::lower_bound(intervals_.begin(), intervals_.end(), rank,
                             [](const Interval& i, int32_t r) { return i.last < r; });
  return it != intervals_.end() && it->first <= rank;
}

bool RankSet::contains_all(const RankSet& other) const noexcept {
  auto mine = intervals_.begin();
  for (const Interval& theirs : other.intervals_) {
    while (mine != intervals_.end() && mine->last < theirs.first) ++mine;
    if (mine == intervals_.end() || mine->first > theirs.first || mine->last < theirs.last) {
      return false;
    }
  }
  return true;
}

bool RankSet::intersects(const RankSet& other) const noexcept {
  auto mine = intervals_.begin();
  for (const Interval& theirs : other.intervals_) {
    while (mine != intervals_.end() && mine->last < theirs.first) ++mine;
    if (mine == intervals_.end()) return false;
    if (mine->first <= theirs.last) return true;
  }
  return false;
}

RankSet RankSet::minus(const RankSet& other) const {
  RankSet result;
  auto cut = other.intervals_.begin();
  for (Interval piece : intervals_) {
    while (cut != other.intervals_.end() && cut->last < piece.first) ++cut;
    for (auto c = cut; c != other.intervals_.end() && c->first <= piece.last; ++c) {
      if (c->first > piece.first) result.intervals_.push_back({piece.first, c->first - 1});
      piece.first = c->last + 1;
      if (piece.first > piece.last) break;
    }
    if (piece.first <= piece.last) result.intervals_.push_back(piece);
  }
  return result;
}

int64_t RankSet::count() const noexcept {
  int64_t count = 0;
  for (const Interval& i : intervals_) count += int64_t{i.last} - i.first + 1;
  return count;
}

std::vector<int32_t> RankSet::to_vector() const {
  std::vector<int32_t> ranks;
  ranks.reserve(static_cast<size_t>(count()));
  for (const Interval& i : intervals_) {
    for (int32_t rank = i.first; rank <= i.last; ++rank) ranks.push_back(rank);
  }
  return ranks;
}

std::string RankSet::to_string() const {
  std::string text;
  for (const Interval& i : intervals_) {
    if (!text.empty()) text += ',';
    text += std::to_string(i.first);
    if (i.last > i.first) {
      text += i.last == i.first + 1 ? ',' : '-';
      text += std::to_string(i.last);
    }
  }
  return text;
}

bool RankSet::from_intervals(std::vector<Interval> intervals, RankSet* out) {
  int64_t previous = -2;
  for (const Interval& i : intervals) {
    if (i.first < 0 || i.first <= previous + 1 || i.last < i.first) return false;
    previous = i.last;
  }
  out->intervals_ = std::move(intervals);
  return true;
}

}  // namespace khorus::wire
