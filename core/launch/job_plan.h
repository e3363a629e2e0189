// JobPlan: everything the guard needs to start the ranks, made before the guard is forked.
//
// The ranks' ends of all descriptors are here; the launcher keeps the other ends (RankEnds). A
// resource: it moves, and closing it closes the descriptors. The launcher's thread, then the guard.
#pragma once

#include <signal.h>
#include <sys/resource.h>

#include <string>
#include <vector>

#include "core/launch/descriptor.h"
#include "core/launch/options.h"
#include "core/net/job_key.h"
#include "khorus/status.h"

namespace khorus::launch {

// What one rank gets, or mpirun in its place. A stream without a descriptor is inherited from the
// launcher; mpirun gets no key and no page, for it passes no descriptors on.
struct RankPlan {
  std::vector<std::string> environment;  // "NAME=value"
  Descriptor standard_input, standard_output, standard_error;
  Descriptor key;          // 32 bytes to read, then end of file
  Descriptor status_page;  // base::StatusPage
};

struct JobPlan {
  std::string program;                 // path of the executable
  std::vector<std::string> arguments;  // argv, the name included
  std::vector<RankPlan> ranks;
  std::vector<Descriptor> spare_keys;  // one for each restart, as RankPlan::key
  // What the launcher changed of itself, as the ranks get it.
  sigset_t signal_mask{};
  rlimit open_files{};
};

// The launcher's ends for one rank. Without captured output, or a page, there is none.
struct RankEnds {
  Descriptor standard_output, standard_error;
  Descriptor status_page;
};

struct PreparedJob {
  std::string job_id;
  net::JobKey key;
  JobPlan plan;
  std::vector<RankEnds> ends;
  bool captured = true;  // false: one rank that has the terminal to itself
  std::string notice;    // what was set for the user, to be said once; may be empty
};

// Looks up the program, makes the key, the pipes and the environment of every rank. InvalidArgument
// for a knob that does not parse, Unavailable for a program that cannot be run.
Result<PreparedJob> prepare_job(const LaunchOptions& options);

}  // namespace khorus::launch
