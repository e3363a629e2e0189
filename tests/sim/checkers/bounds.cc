// See bounds.h.
#include "tests/sim/checkers/bounds.h"

#include <algorithm>

namespace khorus::sim {

void Bounds::begin(const Scenario& scenario, const Workload& workload) {
  steady_ = scenario.steady;
  steps_ = workload.steps();
  tensors_ = workload.tensors_per_step();
  children_of_root_ = std::min(scenario.ranks - 1, scenario.node.fan_in);
  reports_.resize(static_cast<size_t>(scenario.ranks));
  full_reports_.resize(static_cast<size_t>(scenario.ranks));
}

void Bounds::sent(int from, int, const wire::Frame& frame, size_t bytes, TimeUs now) {
  if (bytes > wire::Limits::kMaxFrameBytes) {
    fail(at(from, now) + "a frame of " + std::to_string(bytes) + " bytes");
  }
  if (const auto* report = std::get_if<wire::Report>(&frame.message)) {
    ++reports_[static_cast<size_t>(from)];
    if (!report->contributions.empty() || !report->cached_some.empty()) {
      ++full_reports_[static_cast<size_t>(from)];
    }
  } else if (const auto* decision = std::get_if<wire::Decision>(&frame.message);
             decision && from == 0) {
    for (const wire::Response& response : decision->responses) {
      if (response.cache_ids.empty()) full_decisions_ += response.tensors.size();
    }
  }
}

void Bounds::end(const Ending& ending) {
  if (!steady_) return;
  for (size_t rank = 1; rank < reports_.size(); ++rank) {
    // One per step, one that says it leaves, one that says it has drained.
    if (reports_[rank] > steps_ + 2) {
      fail(at(static_cast<int>(rank), ending.now) + std::to_string(reports_[rank]) +
           " reports in " + std::to_string(steps_) + " steps in which nothing changed");
    }
    if (full_reports_[rank] > 1) {
      fail(at(static_cast<int>(rank), ending.now) + std::to_string(full_reports_[rank]) +
           " reports in full although nothing changed after the first step");
    }
  }
  const auto most = static_cast<uint64_t>(children_of_root_) * tensors_;
  if (full_decisions_ > most) {
    fail("the root sent " + std::to_string(full_decisions_) + " tensors in full instead of " +
         std::to_string(most));
  }
}

}  // namespace khorus::sim
