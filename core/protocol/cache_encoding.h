// Cache encoding: contributions and responses with and without ids of the response cache.
//
// Pure functions. A contribution that the sender's cache holds travels as an id; the receiver,
// whose cache has applied at least as many decisions, turns the id back into the contribution.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/protocol/process_sets.h"
#include "core/protocol/request_table.h"
#include "core/protocol/response_cache.h"
#include "core/wire/message.h"

namespace khorus::protocol {

// Appends to `report` what `ranks` of the entry have submitted. `full` are the ranks that an id in
// Report::cached_all stands for.
void append_to_report(const TableEntry& entry, const wire::RankSet& ranks,
                      const wire::RankSet& full, const ResponseCache& cache,
                      const ProcessSets& sets, wire::Report* report);

// The contributions of a report, ids resolved. `subtree` is the sender's. On a report that no
// correct sender makes, returns nothing and says why in `error`.
std::vector<wire::Contribution> expand_report(const wire::Report& report,
                                              const wire::RankSet& subtree,
                                              const ResponseCache& cache, const ProcessSets& sets,
                                              std::string* error);

// Sets `cache_ids` when the cache holds every tensor of the response as it is.
void compress_response(const ResponseCache& cache, wire::Response* response);
// Fills `tensors` from `cache_ids`. False if the cache does not hold one.
bool expand_response(const ResponseCache& cache, wire::Response* response);

}  // namespace khorus::protocol
