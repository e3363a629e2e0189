// Meetings: all ranks of a process set make its communicator on their devices at the same place.
//
// What a rank is given first of a set on a device is, for every rank of the set, the same
// operation, also where that is a send/recv of two others: those others are given it to meet for,
// once, without a ticket. So whoever connects with the first of them connects with all.
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "tests/sim/checkers/checker.h"
#include "tests/sim/checkers/set_book.h"

namespace khorus::sim {

class Meetings : public Checker {
 public:
  const char* name() const override { return "meetings"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;
  void end(const Ending& ending) override;

 private:
  // Sequence of the decision and index in it.
  using Place = std::pair<uint64_t, uint32_t>;
  void check(int rank, const protocol::Execution& execution, TimeUs now);

  SetBook book_;
  std::map<ProcessSetId, Place> first_;             // as some rank of the set was given it
  std::vector<std::map<ProcessSetId, Place>> own_;  // by rank
};

}  // namespace khorus::sim
