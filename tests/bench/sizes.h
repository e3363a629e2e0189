// One operation over a range of sizes, submitted and waited for again and again: nccl-tests' table.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "khorus/types.h"

namespace khorus::bench {

struct SizesOptions {
  std::string op = "allreduce";  // or allgather, broadcast, reducescatter, alltoall, sendrecv
  DataType type = DataType::kFloat32;
  size_t least = 4, most = size_t{16} << 20;  // bytes
  size_t factor = 4;
  double seconds = 0.2;  // per size
};

// Rank 0 prints the table. A list with an object per size; times are rank 0's own. Every size is
// checked against what it must give first. Throws for an operation or type that it does not know.
nlohmann::json run_sizes(const SizesOptions& options);

}  // namespace khorus::bench
