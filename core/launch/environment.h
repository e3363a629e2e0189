// The environment of ranks: what they inherit, their place, and what goes to other hosts.
//
// Functions of this process's environment and the options; the launcher's thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/launch/options.h"
#include "khorus/options.h"
#include "khorus/status.h"

namespace khorus::launch {

using Variables = std::map<std::string, std::string>;

// This process's environment, and the same without what would place a rank in another job than its
// own.
Variables all_variables();
Variables inherited_variables();

struct JobEnvironment {
  Variables variables;  // of all ranks
  Config config;        // what they will make of it
};
// Errors in knobs are found here, once, instead of in every rank.
Result<JobEnvironment> job_environment(const LaunchOptions& options, const std::string& job_id);

// The names of `variables` that ranks on other hosts get: an allow-list, so that secrets and what
// belongs to this machine stay here. `more` are names the user gave.
std::vector<std::string> names_to_forward(const Variables& variables,
                                          const std::vector<std::string>& more);

// Threads of numeric libraries: without a bound every rank would take every core. Returns what to
// tell the user; empty if nothing was changed.
std::string share_cores(int ranks, Variables* variables);

struct RankPlace {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;
  int host = 0, hosts = 1;
};
void set_place(const RankPlace& place, Variables* variables);

// "NAME=value"
std::vector<std::string> entries_of(const Variables& variables);

}  // namespace khorus::launch
