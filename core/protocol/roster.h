// Roster: who ranks and process sets are, for messages. Refers to what its maker keeps.
//
// Pure functions.
#pragma once

#include <string>
#include <vector>

#include "core/protocol/node.h"
#include "core/protocol/process_sets.h"

namespace khorus::protocol {

struct Roster {
  const std::vector<PeerInfo>& peers;
  const ProcessSets& sets;
};

// "rank 3 (gpu-02)" or "ranks 0-2,4-7".
std::string describe_ranks(const wire::RankSet& ranks, const std::vector<PeerInfo>& peers);

// "rank 3 (gpu-02, pid 4711)", with what is known.
std::string describe_peer(int rank, const std::vector<PeerInfo>& peers);

// " in process set 3 (ranks 0,2)", behind the name of an operation; nothing for the set of all
// ranks.
std::string describe_set(ProcessSetId id, const ProcessSets& sets);

// `allreduce "layers.0.weight" in process set 3 (ranks 0,2)`.
std::string describe(const wire::Request& request, const ProcessSets& sets);

}  // namespace khorus::protocol
