// Agreement: every rank is given the same decisions, and from them the same executions in the same
// order with the same content: those of the process sets that it is in and of its own transfers,
// and only those; a rank that ends early has seen a prefix.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tests/sim/checkers/checker.h"
#include "tests/sim/checkers/set_book.h"

namespace khorus::sim {

class Agreement : public Checker {
 public:
  const char* name() const override { return "agreement"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void sent(int from, int to, const wire::Frame& frame, size_t bytes, TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;
  void end(const Ending& ending) override;

 private:
  // Sequence of the decision and index in it.
  using Place = std::pair<uint64_t, uint32_t>;
  struct Seen {
    size_t executions = 0;
    size_t completions = 0;  // agreed ones, but barriers
    Place last;
    uint64_t rounds = 0;
    std::unordered_map<uint64_t, wire::Request> requests;  // by ticket
  };
  // What is over without the data plane.
  struct Agreed {
    wire::Request request;
    std::vector<wire::Bytes> payloads;
    int64_t value = -1;
  };
  void check_execution(int rank, const protocol::Execution& execution, TimeUs now);
  void check_completion(int rank, const protocol::Completion& completion, TimeUs now);

  // As the first rank saw them.
  std::map<uint64_t, wire::Decision> decisions_;
  std::map<Place, protocol::Execution> executions_;
  std::map<uint64_t, Agreed> completions_;  // by position in the order of all agreed operations
  SetBook book_;
  std::vector<Seen> seen_;  // by rank
};

}  // namespace khorus::sim
