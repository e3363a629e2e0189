// ProcessSets: which ranks belong to which set. A value; pure.
//
// The same on every rank after the same decisions: ids are given in the order of decisions and
// never used again.
#pragma once

#include <cstdint>
#include <limits>
#include <map>

#include "core/wire/message.h"
#include "core/wire/rank_set.h"
#include "khorus/types.h"

namespace khorus::protocol {

// Whether a number off the wire can be an id at all.
inline bool is_set_id(int64_t number) noexcept {
  return number >= 0 && number <= std::numeric_limits<ProcessSetId>::max();
}

class ProcessSets {
 public:
  explicit ProcessSets(int world_size);

  // The members of a set; null for an id that does not exist, or not any more.
  const wire::RankSet* find(ProcessSetId id) const noexcept;
  // An id that was given once and whose set was removed.
  bool was_removed(ProcessSetId id) const noexcept;

  // The ranks that must submit a request: the members of its set, or the two of a send/recv. Empty
  // if the request cannot be.
  wire::RankSet needed(const wire::Request& request) const;

  // Whether nothing of this set has run on a device before; from now on something has. REQUIRES: it
  // exists.
  bool is_first_on_device(ProcessSetId id);

  ProcessSetId add(wire::RankSet members);
  // REQUIRES: removable(id).
  void remove(ProcessSetId id);
  // False for an add_process_set of no ranks or of ranks that are none, and for a
  // remove_process_set that does not say of which.
  bool can_be_changed_by(const wire::Request& request) const;
  // Exists, and is not the set of all ranks.
  bool removable(ProcessSetId id) const noexcept;

 private:
  struct Set {
    wire::RankSet members;
    bool was_on_device = false;
  };
  ProcessSetId next_ = kGlobalProcessSet;
  std::map<ProcessSetId, Set> sets_;
};

}  // namespace khorus::protocol
