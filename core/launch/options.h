// LaunchOptions: the command line of khorusrun, parsed. A value.
//
// Spellings are those of horovodrun and torchrun; flags of knobs come from the table of knobs
// (core/base/config_table.h).
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/launch/hosts.h"
#include "core/launch/ssh.h"
#include "khorus/status.h"

namespace khorus::launch {

enum class LaunchAction : uint8_t { kRun, kHelp, kVersion, kCheckBuild, kKnobsMarkdown, kAgent };

struct LaunchOptions {
  LaunchAction action = LaunchAction::kRun;
  int processes = 0;
  std::vector<Host> hosts;  // empty: this machine
  // More than one: each has a launcher of its own with `processes` ranks (nodes.h).
  int nodes = 1, node_rank = 0;
  std::string rendezvous;  // "host:port" of node 0
  std::string rendezvous_id = "none";
  SshOptions ssh;
  std::vector<std::string> forwarded;    // names of variables that ranks on other hosts get too
  int agent_patience_s = 0;              // of --agent
  std::string output_directory;          // empty: no log files
  std::string prefix = "rank {rank}: ";  // empty: no prefix
  bool prefix_given = false;             // also with one rank
  double failure_grace_s = 5;
  int restarts = 0;  // of ranks that failed, in all
  bool verbose = false;
  bool mpi = false;                                // through Open MPI's mpirun
  std::string mpi_args;                            // more words for it
  bool as_horovod = false;                         // `import horovod` finds Khorus
  std::string python_package;                      // where that is; empty: beside khorusrun
  std::map<std::string, std::string> environment;  // of knobs given as flags
  std::vector<std::string> program;                // and its arguments, untouched

  // Of this launcher's ranks.
  int first_rank() const { return node_rank * processes; }
  int world_size() const { return nodes * processes; }
};

// `arguments` without the launcher's own name; `variables` are this process's environment, for what
// they leave open (allocation.h). InvalidArgument says which option or variable, and why.
Result<LaunchOptions> parse_options(std::span<const std::string> arguments,
                                    const std::map<std::string, std::string>& variables = {});

// Fills in what follows from the rest; InvalidArgument: options that do not go together.
Status check(LaunchOptions* options);

// One flag that is no knob.
enum class FlagAction : uint8_t {
  kProcesses,
  kHosts,
  kHostfile,
  kSshPort,
  kSshIdentity,
  kSshUser,
  kSshCommand,
  kHostSilence,
  kRemoteLauncher,
  kForward,
  kAgent,
  kOutput,
  kPrefix,
  kNoPrefix,
  kFailureGrace,
  kRestarts,
  kVerbose,
  kMpi,
  kGloo,
  kMpiArguments,
  kAsHorovod,
  kPythonPackage,
  kNodes,
  kNodeRank,
  kRendezvous,
  kRendezvousId,
  kMasterAddress,
  kMasterPort,
  kConfigFile,
  kSetKnob,   // to one value
  kNothing,   // says what is so anyway
  kNotBuilt,  // known from Horovod or torchrun, and refused
  kHelp,
  kVersion,
  kCheckBuild,
  kKnobsMarkdown,
};

struct Flag {
  std::string_view spellings;  // "-np, --num-proc"
  std::string_view value;      // what it takes, for help; empty: nothing
  FlagAction action = FlagAction::kNothing;
  std::string_view sentence;
  std::string_view knob = {};  // of kSetKnob
  std::string_view knob_value = {};
};
std::span<const Flag> flags() noexcept;

}  // namespace khorus::launch
