// See straggler_watch.h.
#include "core/protocol/straggler_watch.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/protocol/roster.h"
#include "core/protocol/stall_inspector.h"

namespace khorus::protocol {
namespace {

constexpr size_t kRanksNamed = 8;
// Below these a report would come from a slow start, or from nothing worth the words.
constexpr uint64_t kLeastOperations = 100;
constexpr TimeUs kLeastWait = 1'000'000;
constexpr double kNoteworthyShare = 0.1;

std::string percent(TimeUs part, TimeUs whole) {
  std::array<char, 32> text{};
  std::snprintf(
      text.data(), text.size(), "%.1f %%",
      100.0 * static_cast<double>(part) / static_cast<double>(std::max<TimeUs>(whole, 1)));
  return text.data();
}

}  // namespace

void StragglerWatch::arrived(TableEntry* entry, const wire::RankSet& ranks, TimeUs now) {
  // Khorus' own exchanges wait for programs to start, not to compute.
  if (entry->variants.front().request.kind == OpKind::kExchange) return;
  if (started_at_ == 0) started_at_ = now;
  const int64_t needed = entry->needed.count(), there = entry->ranks.count();
  const bool was_waiting = entry->half_there != 0;
  if (!was_waiting && 2 * there >= needed) entry->half_there = now;
  const bool complete = entry->complete();
  if (complete && there > ranks.count()) ++operations_;
  if (!was_waiting && !complete) return;
  if (there == ranks.count()) return;  // all at once: nobody waited
  for (const wire::RankSet::Interval& interval : ranks.intervals()) {
    for (int32_t rank = interval.first; rank <= interval.last; ++rank) {
      Late& late = late_[rank];
      if (complete) ++late.last;
      const TimeUs from = std::max(entry->half_there, late.counted_until);
      late.waited_us += std::max<TimeUs>(now - from, 0);
      late.counted_until = now;
    }
  }
}

bool StragglerWatch::noteworthy(const Late& late, TimeUs lasted_us) const {
  return operations_ >= kLeastOperations && 2 * late.last > operations_ &&
         late.waited_us >= kLeastWait &&
         static_cast<double>(late.waited_us) > kNoteworthyShare * static_cast<double>(lasted_us);
}

std::optional<std::string> StragglerWatch::report(const std::vector<PeerInfo>& peers,
                                                  TimeUs now) const {
  if (!enabled() || operations_ == 0) return std::nullopt;
  const TimeUs lasted_us = now - started_at_;
  std::vector<std::pair<int32_t, Late>> named(late_.begin(), late_.end());
  if (report_ == StragglerReport::kWhenNoteworthy) {
    std::erase_if(named, [&](const auto& late) { return !noteworthy(late.second, lasted_us); });
    if (named.empty()) return std::nullopt;
  }
  std::stable_sort(named.begin(), named.end(), [](const auto& a, const auto& b) {
    return a.second.waited_us > b.second.waited_us;
  });
  std::string text = "stragglers: in " + format_seconds(lasted_us) + " with " +
                     std::to_string(operations_) + " operations the others waited ";
  for (size_t i = 0; i < std::min(named.size(), kRanksNamed); ++i) {
    const auto& [rank, late] = named[i];
    text += (i == 0 ? "" : "; ") + format_seconds(late.waited_us) + " (" +
            percent(late.waited_us, lasted_us) + ") for " + describe_peer(rank, peers) +
            ", the last to submit " + std::to_string(late.last) + " of them";
  }
  if (named.size() > kRanksNamed) {
    text += "; less for " + std::to_string(named.size() - kRanksNamed) + " more ranks";
  }
  return text;
}

}  // namespace khorus::protocol
