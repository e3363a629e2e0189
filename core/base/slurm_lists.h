// The lists in Slurm's environment: node names with ranges, and numbers that repeat.
//
// Pure functions: any thread. The forms are those of `scontrol show hostnames` and of the variables
// that sbatch(1) and srun(1) describe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "khorus/status.h"

namespace khorus::base {

// "login,gpu[1-3,07-09]n[0-1]": every name, in order; the last range counts fastest, and leading
// zeros stay. InvalidArgument says what is wrong, also with more than 65536 names.
Result<std::vector<std::string>> expand_node_list(std::string_view text);

// "2(x3),1" -> 2, 2, 2, 1. InvalidArgument says what is wrong, also with more than 65536 numbers.
Result<std::vector<int64_t>> expand_counts(std::string_view text);

}  // namespace khorus::base
