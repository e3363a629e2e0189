// ExactlyOnce: every ticket gets exactly one outcome: an execution or a completion, not both, not
// twice, and none for a ticket that was never submitted; an execution that was given out ends.
// (Ticket 0, a part in what others submitted, is the membership checker's.)
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "tests/sim/checkers/checker.h"

namespace khorus::sim {

class ExactlyOnce : public Checker {
 public:
  const char* name() const override { return "exactly once"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;
  void executed(int rank, const protocol::Execution& execution, bool ok, TimeUs now) override;
  void end(const Ending& ending) override;

 private:
  enum class Stage : uint8_t { kSubmitted, kExecuting, kDone };
  void advance(int rank, uint64_t ticket, Stage from, Stage to, TimeUs now);

  std::vector<std::unordered_map<uint64_t, Stage>> tickets_;  // by rank
};

}  // namespace khorus::sim
