// Liveness: nothing waits for ever, and nothing waits long without need.
//
// Every live rank ends with a goodbye or a fault. An operation that all its ranks have submitted,
// or have joined instead, and a join of all, is decided within a bound of virtual time that is made
// of the scenario's own delays (so no timer of another purpose can have rescued it). After a crash
// every survivor knows within such a bound.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/sim/checkers/checker.h"

namespace khorus::sim {

class Liveness : public Checker {
 public:
  const char* name() const override { return "liveness"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;
  void crashed(int rank, TimeUs now) override;
  void link_cut(int a, int b, TimeUs now) override;
  void data_plane_failed(int rank, const Status& status, TimeUs now) override;
  void end(const Ending& ending) override;

 private:
  void fault_happened(TimeUs now);
  void decided(int rank, const wire::Request& request, TimeUs now);

  TimeUs decision_bound_us_ = 0;
  TimeUs fault_bound_us_ = 0;
  TimeUs last_fault_us_ = protocol::kNever;
  std::unordered_map<std::string, TimeUs> last_submitted_;  // by set and name, on any rank
  std::vector<std::unordered_map<uint64_t, wire::Request>> requests_;  // by rank, ticket
  TimeUs last_joined_ = 0;                                             // on any rank
};

}  // namespace khorus::sim
