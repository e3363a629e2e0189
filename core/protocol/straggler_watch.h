// StragglerWatch: whom the others waited for, over a whole job. Lives at the root.
//
// A rank is waited for while at least half of the ranks of an operation have submitted it and this
// one has not. Time in which several operations wait for the same rank counts once. That is the
// most that the job can have lost by the rank: the others may have had something else to do.
//
// What the root knows: ranks below one of its children (more than `fan_in` ranks: see topology.h)
// are heard of together, and count as late together.
//
// Pure; one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/protocol/node.h"
#include "core/protocol/request_table.h"

namespace khorus::protocol {

class StragglerWatch {
 public:
  explicit StragglerWatch(StragglerReport report) : report_(report) {}

  bool enabled() const noexcept { return report_ != StragglerReport::kOff; }
  // `entry` has just got the contribution of `ranks`, which is in it already.
  void arrived(TableEntry* entry, const wire::RankSet& ranks, TimeUs now);

  // What there is to say at the end; nothing when nothing is, or is wanted.
  std::optional<std::string> report(const std::vector<PeerInfo>& peers, TimeUs now) const;

 private:
  struct Late {
    TimeUs waited_us = 0;
    TimeUs counted_until = 0;
    uint64_t last = 0;  // operations that it was the last, or among the last, to submit
  };
  bool noteworthy(const Late& late, TimeUs lasted_us) const;

  StragglerReport report_;
  std::map<int32_t, Late> late_;
  uint64_t operations_ = 0;  // complete, of more than one rank
  TimeUs started_at_ = 0;
};

}  // namespace khorus::protocol
