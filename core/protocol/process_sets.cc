// See process_sets.h.
#include "core/protocol/process_sets.h"

namespace khorus::protocol {

ProcessSets::ProcessSets(int world_size) {
  sets_.emplace(kGlobalProcessSet, wire::RankSet::all(world_size));
}

const wire::RankSet* ProcessSets::find(ProcessSetId id) const noexcept {
  const auto it = sets_.find(id);
  return it == sets_.end() ? nullptr : &it->second;
}

}  // namespace khorus::protocol
