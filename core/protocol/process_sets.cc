// See process_sets.h.
#include "core/protocol/process_sets.h"

#include <utility>

namespace khorus::protocol {

ProcessSets::ProcessSets(int world_size) { add(wire::RankSet::all(world_size)); }

const wire::RankSet* ProcessSets::find(ProcessSetId id) const noexcept {
  const auto it = sets_.find(id);
  return it == sets_.end() ? nullptr : &it->second.members;
}

bool ProcessSets::was_removed(ProcessSetId id) const noexcept {
  return id >= 0 && id < next_ && find(id) == nullptr;
}

wire::RankSet ProcessSets::needed(const wire::Request& request) const {
  const wire::RankSet* members = find(request.process_set);
  if (members == nullptr) return {};
  if (request.kind != OpKind::kSendRecv) return *members;
  const bool possible = request.root_rank != request.peer && members->contains(request.root_rank) &&
                        members->contains(request.peer);
  return possible ? wire::RankSet::of({request.root_rank, request.peer}) : wire::RankSet();
}

bool ProcessSets::is_first_on_device(ProcessSetId id) {
  return !std::exchange(sets_.at(id).was_on_device, true);
}

ProcessSetId ProcessSets::add(wire::RankSet members) {
  sets_.emplace(next_, Set{std::move(members)});
  return next_++;
}

void ProcessSets::remove(ProcessSetId id) { sets_.erase(id); }

bool ProcessSets::can_be_changed_by(const wire::Request& request) const {
  if (request.kind == OpKind::kRemoveProcessSet) return request.shape.size() == 1;
  if (request.kind != OpKind::kAddProcessSet) return true;
  return !request.members.empty() && find(kGlobalProcessSet)->contains_all(request.members);
}

bool ProcessSets::removable(ProcessSetId id) const noexcept {
  return id != kGlobalProcessSet && find(id) != nullptr;
}

}  // namespace khorus::protocol
