// Agreement: every rank is given the same decisions, and from them the same executions in the same
// order with the same content; a rank that ends early has seen a prefix.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "tests/sim/checkers/checker.h"

namespace khorus::sim {

class Agreement : public Checker {
 public:
  const char* name() const override { return "agreement"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void sent(int from, int to, const wire::Frame& frame, size_t bytes, TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;
  void end(const Ending& ending) override;

 private:
  struct Seen {
    size_t executions = 0;
    size_t exchanges = 0;
    uint64_t rounds = 0;
  };
  void check_execution(int rank, const protocol::Execution& execution, TimeUs now);
  void check_payloads(int rank, const std::vector<wire::Bytes>& payloads, TimeUs now);

  // As the first rank saw them.
  std::map<uint64_t, wire::Decision> decisions_;
  std::vector<protocol::Execution> executions_;
  std::vector<std::vector<wire::Bytes>> exchanges_;
  std::vector<Seen> seen_;  // by rank
};

}  // namespace khorus::sim
