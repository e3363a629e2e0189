// JobPlan: everything the guard needs to start the ranks, made before the guard is forked.
//
// The ranks' ends of all descriptors are here; the launcher keeps the other ends (RankEnds). A
// resource: it moves, and closing it closes the descriptors. The launcher's thread, then the guard.
#pragma once

#include <signal.h>
#include <sys/resource.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "core/launch/descriptor.h"
#include "core/launch/hosts.h"
#include "core/launch/options.h"
#include "core/net/job_key.h"
#include "khorus/status.h"

namespace khorus::launch {

struct AgentPlan;  // agent_protocol.h

// What one rank gets, or mpirun in its place. A stream without a descriptor is inherited from the
// launcher; mpirun gets no key and no page, for it passes no descriptors on. An ssh to another host
// is a child like a rank, with a program of its own.
struct RankPlan {
  std::string program;                   // empty: the job's
  std::vector<std::string> arguments;    // of `program`
  std::vector<std::string> environment;  // "NAME=value"
  Descriptor standard_input, standard_output, standard_error;
  Descriptor key;          // 32 bytes to read, then end of file
  Descriptor status_page;  // base::StatusPage
};

struct JobPlan {
  std::string program;                 // path of the executable
  std::vector<std::string> arguments;  // argv, the name included
  std::vector<RankPlan> ranks;         // those of this machine
  std::vector<Descriptor> spare_keys;  // one for each restart, as RankPlan::key
  std::vector<RankPlan> carriers;      // the ssh to each other host; they are started first
  // What the launcher changed of itself, as the ranks get it.
  sigset_t signal_mask{};
  rlimit open_files{};
};

// The launcher's ends for one rank. Without captured output, or a page, there is none.
struct RankEnds {
  Descriptor standard_output, standard_error;
  Descriptor status_page;
};

// The launcher's ends for the ssh to one host.
struct CarrierEnds {
  Host host;
  Descriptor to, from, standard_error;
};

struct PreparedJob {
  std::string job_id;
  net::JobKey key;
  JobPlan plan;
  std::vector<HostRanks> hosts;       // in the order of ranks
  std::vector<RankEnds> ends;         // of every rank; empty for ranks on other hosts
  std::vector<CarrierEnds> carriers;  // to the other hosts, in the order of `hosts`
  std::vector<std::pair<std::string, std::string>> forwarded;  // variables for them
  std::chrono::milliseconds start_timeout{0};
  std::string network_interface;  // that the user named; may be empty
  bool tls = false;               // whether the store, and all that connect to it, speak TLS
  bool captured = true;           // false: one rank that has the terminal to itself
  std::string notice;             // what was set for the user, to be said once; may be empty

  bool has_other_hosts() const;
};

// Looks up the program, makes the key, the pipes and the environment of every rank. InvalidArgument
// for a knob that does not parse, Unavailable for a program that cannot be run.
Result<PreparedJob> prepare_job(const LaunchOptions& options);

// The same for the ranks of one host, in the agent there. `network_interface` is used if the user
// named none.
Result<PreparedJob> prepare_ranks(const AgentPlan& plan, const std::string& network_interface);

}  // namespace khorus::launch
