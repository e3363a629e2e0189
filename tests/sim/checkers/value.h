// Value: what a rank is told to run is what it submitted under that ticket: the same request, its
// own extent and bytes in its own place; what is fused may be fused and stays within the threshold.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "tests/sim/checkers/checker.h"
#include "tests/sim/checkers/set_book.h"

namespace khorus::sim {

class Value : public Checker {
 public:
  const char* name() const override { return "value"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;

 private:
  void check_execution(int rank, const protocol::Execution& execution, TimeUs now);
  void check_tensor(int rank, const wire::ResponseTensor& tensor, uint64_t ticket, TimeUs now);
  void check_fusion(int rank, const wire::Response& response, TimeUs now);
  void check_completion(int rank, const protocol::Completion& completion, TimeUs now);

  SetBook book_;
  int64_t threshold_bytes_ = 0;
  std::vector<std::unordered_map<uint64_t, protocol::Submission>> pending_;  // by rank, ticket
};

}  // namespace khorus::sim
