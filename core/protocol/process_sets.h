// ProcessSets: which ranks belong to which set. A value; pure.
#pragma once

#include <map>

#include "core/wire/rank_set.h"
#include "khorus/types.h"

namespace khorus::protocol {

class ProcessSets {
 public:
  explicit ProcessSets(int world_size);

  // The members of a set; null for an id that does not exist.
  const wire::RankSet* find(ProcessSetId id) const noexcept;

 private:
  std::map<ProcessSetId, wire::RankSet> sets_;
};

}  // namespace khorus::protocol
