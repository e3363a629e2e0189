// Outcome: every operation ends as the workload planned it: planned mismatches and duplicates with
// their errors, what joined ranks spoil and what a joined rank submits refused, what a process set
// takes with it when all have removed it over with it, everything else well; where the scenario has
// a fault or an early leaver, also with the errors that these cause, but never with an error that
// nothing caused.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/sim/checkers/checker.h"

namespace khorus::sim {

class Outcome : public Checker {
 public:
  const char* name() const override { return "outcome"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;

 private:
  void check(int rank, uint64_t ticket, const Status& status, TimeUs now);
  bool allowed(StatusCode planned, const Origin& origin, StatusCode code) const;
  bool set_may_be_gone(ProcessSetId set) const;

  struct Planned {
    Origin origin;
    StatusCode code = StatusCode::kOk;
    ProcessSetId set = kGlobalProcessSet;
  };
  const Workload* workload_ = nullptr;
  Scenario scenario_;
  std::vector<std::unordered_map<uint64_t, Planned>> planned_;  // by rank, ticket
  std::map<std::pair<int, size_t>, StatusCode> plan_;           // by step, unit
  std::map<ProcessSetId, std::set<int>> removed_by_;            // ranks that have asked for it
};

}  // namespace khorus::sim
