// Starting one rank, in the guard.
#pragma once

#include <sys/types.h>

#include <cstddef>

#include "core/launch/job_plan.h"

namespace khorus::launch {

// Forks and executes `rank` of `plan` in a process group of its own, with its streams, with
// the descriptors of its key and status page, and to be killed when this process ends. Returns its
// pid, or -1 with errno. A program that cannot be executed says so on its standard error and ends
// with 127 or 126, as in a shell.
pid_t start_rank(const JobPlan& plan, const RankPlan& rank);

}  // namespace khorus::launch
