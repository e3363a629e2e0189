// Membership: process sets and joins are the same for all.
//
// An id is given to one process set on all ranks, and never again; exactly the members are told
// when their set comes and goes, and nothing of a set runs on a rank once that was told so. An
// operation of a set that is removed ends well on all that submitted it, or on none. A rank takes
// part without a ticket only while it has joined, and has no rows in what is gathered then. A join
// ends on all ranks after all have joined, and names one and the same rank, that joined as the last
// (or so shortly before it that the news may have overtaken each other).
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/sim/checkers/checker.h"
#include "tests/sim/checkers/set_book.h"

namespace khorus::sim {

class Membership : public Checker {
 public:
  const char* name() const override { return "membership"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;

 private:
  struct Known {
    wire::Request request;
    Origin origin;
  };
  struct PerRank {
    std::unordered_map<uint64_t, Known> tickets;
    std::set<ProcessSetId> gone;  // was told so
    size_t joins_over = 0;
    ProcessSetId last_id = kGlobalProcessSet;
  };
  struct Join {
    std::vector<TimeUs> at;  // by rank; kNever: not yet
    int64_t last = -1;
    bool over = false;
  };
  struct Fate {
    bool well = false;
    bool removed = false;
  };
  void check_execution(int rank, const protocol::Execution& execution, TimeUs now);
  void check_completion(int rank, const protocol::Completion& completion,
                        std::vector<protocol::SetChange>* expected, TimeUs now);
  void check_changes(int rank, const protocol::Output& output,
                     const std::vector<protocol::SetChange>& expected, TimeUs now);
  void added(int rank, const wire::Request& request, ProcessSetId id, TimeUs now);
  void join_over(int rank, int64_t last, TimeUs now);
  void note_fate(int rank, uint64_t ticket, const Status& status, TimeUs now);

  bool strict_ = true;  // what a step's unit is on one rank it is on the others
  TimeUs news_bound_us_ = 0;
  SetBook book_;
  std::vector<PerRank> ranks_;
  std::vector<Join> joins_;
  std::map<ProcessSetId, std::string> names_;     // of what added it
  std::map<std::pair<int, size_t>, Fate> fates_;  // by step, unit
};

}  // namespace khorus::sim
