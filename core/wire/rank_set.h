// RankSet: a set of ranks as sorted, disjoint, non-adjacent intervals.
//
// A value. Subtrees of the control tree are a few intervals per level, so sets stay small whatever
// the world size.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace khorus::wire {

class RankSet {
 public:
  struct Interval {
    int32_t first = 0;
    int32_t last = 0;  // inclusive
    bool operator==(const Interval&) const = default;
  };

  RankSet() = default;
  static RankSet single(int32_t rank) { return range(rank, rank); }
  static RankSet range(int32_t first, int32_t last);
  static RankSet all(int32_t size) { return size > 0 ? range(0, size - 1) : RankSet(); }
  static RankSet of(const std::vector<int32_t>& ranks);

  void add(int32_t rank) { add_range(rank, rank); }
  void add_range(int32_t first, int32_t last);
  void add_all(const RankSet& other);
  void remove_all(const RankSet& other);

  bool contains(int32_t rank) const noexcept;
  bool contains_all(const RankSet& other) const noexcept;
  bool intersects(const RankSet& other) const noexcept;
  RankSet minus(const RankSet& other) const;
  bool empty() const noexcept { return intervals_.empty(); }
  int64_t count() const noexcept;
  // The smallest rank. REQUIRES: not empty.
  int32_t first() const noexcept { return intervals_.front().first; }
  std::vector<int32_t> to_vector() const;
  // "0-2,4-7" ; "" when empty.
  std::string to_string() const;

  const std::vector<Interval>& intervals() const noexcept { return intervals_; }
  // From intervals off the wire; false if they are not sorted, disjoint, non-adjacent and >= 0.
  static bool from_intervals(std::vector<Interval> intervals, RankSet* out);

  bool operator==(const RankSet&) const = default;

 private:
  std::vector<Interval> intervals_;
};

}  // namespace khorus::wire
