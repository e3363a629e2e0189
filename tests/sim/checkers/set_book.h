// SetBook: which ranks an operation needs and which ranks have joined, as the ranks were told.
//
// For checkers: learns from what is submitted and from how that ends, not from the product's own
// tables. A value; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/protocol/node.h"
#include "tests/sim/observer.h"

namespace khorus::sim {

// Process set and name, of a send/recv also the two ranks: what an operation is known by.
std::string key_of(const wire::Request& request);

class SetBook {
 public:
  void begin(const Scenario& scenario);
  void submitted(int rank, const Origin& origin, std::span<const protocol::Submission> submissions);
  // What a rank is told of new sets. First of all checks of an output.
  void learn_sets(int rank, const protocol::Output& output);
  // What it is told of joins. Last of all checks of an output.
  void learn_joins(int rank, const protocol::Output& output);

  // The members of a set; none if nobody was told of it yet.
  const std::vector<int>& members(ProcessSetId id) const;
  // " in process set 3 (ranks 0,2)", as messages name it; empty for the set of all ranks.
  std::string set_text(ProcessSetId id) const;
  // The members, or the two of a send/recv; ascending.
  std::vector<int> needed(const wire::Request& request) const;
  bool is_needed(const wire::Request& request, int rank) const;
  // Position among the members; their number if it is not one.
  size_t position(ProcessSetId id, int rank) const;
  // From join() until the rank was told that it is over.
  bool has_joined(int rank) const { return joined_[static_cast<size_t>(rank)] != 0; }

 private:
  std::map<ProcessSetId, std::vector<int>> sets_;
  std::vector<std::unordered_map<uint64_t, std::vector<int>>> adding_;  // by rank, ticket
  std::vector<uint64_t> joined_;                                        // by rank: ticket
};

}  // namespace khorus::sim
