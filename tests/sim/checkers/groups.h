// Groups: all members of a group run, or none; those that run are in one decision.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "tests/sim/checkers/checker.h"

namespace khorus::sim {

class Groups : public Checker {
 public:
  const char* name() const override { return "groups"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions,
                 TimeUs now) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;

 private:
  // How the first member ended: the decision that it runs by, or nothing for an error.
  struct Group {
    std::string name;
    size_t members = 0;
    size_t ended = 0;
    std::optional<uint64_t> decision;
  };
  void member_ended(int rank, uint64_t ticket, std::optional<uint64_t> decision, TimeUs now);

  struct PerRank {
    std::unordered_map<uint64_t, size_t> group_of;  // by ticket
    std::vector<Group> groups;
  };
  std::vector<PerRank> ranks_;
};

}  // namespace khorus::sim
