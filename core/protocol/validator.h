// Validator: whether all ranks asked for the same, and if not, a sentence that says who differs.
//
// Pure functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/protocol/request_table.h"
#include "core/protocol/roster.h"

namespace khorus::protocol {

// Nothing if the variants agree, else e.g.
//   allreduce "layers.3.up.weight" has shape [4096,1024] on ranks 0-2,4-7 and [4096,512] on rank 3
//   (gpu-02); submit the same on every rank
// Names every attribute that differs, with every value and its ranks.
std::optional<std::string> mismatch(const TableEntry& entry, const Roster& roster);

// Nothing if the operation can go on without the ranks that have joined instead of submitting it,
// else why it cannot.
std::optional<std::string> objection_to_absence(const TableEntry& entry, const Roster& roster);

}  // namespace khorus::protocol
