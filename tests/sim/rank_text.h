// Rank lists in words, "0-2,4-7", written and read independently of wire::RankSet, whose texts the
// truth checker judges.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace khorus::sim {

// "rank 3" or "ranks 0-2,4-7". REQUIRES: ascending, not empty.
std::string rank_text(const std::vector<int>& ranks);

// Reads "rank 3" or "ranks 0-2,4-7" at the start of the text; nothing if there is none.
std::optional<std::vector<int>> read_ranks(std::string_view text);

}  // namespace khorus::sim
