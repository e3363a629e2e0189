// See allocation.h; the variables are those of sbatch(1) and of torchrun's argument parser.
#include "core/launch/allocation.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/base/slurm_lists.h"

namespace khorus::launch {
namespace {

using Variables = std::map<std::string, std::string>;

std::string text_of(const Variables& variables, const char* name) {
  const auto found = variables.find(name);
  return found == variables.end() ? "" : found->second;
}

Status refused(const char* variable, const std::string& why) {
  return Status(StatusCode::kInvalidArgument,
                std::string(variable) + "=" + why + "; -H names the hosts instead");
}

// Tasks by node; without them a task for each CPU.
Result<std::vector<int64_t>> slots_of(const Variables& variables, size_t nodes) {
  const bool tasks = !text_of(variables, "SLURM_TASKS_PER_NODE").empty();
  const char* name = tasks ? "SLURM_TASKS_PER_NODE" : "SLURM_JOB_CPUS_PER_NODE";
  Result<std::vector<int64_t>> counts = base::expand_counts(text_of(variables, name));
  if (!counts.ok()) return refused(name, counts.status().message());
  if (counts->size() == nodes && std::ranges::find(*counts, 0) == counts->end()) return counts;
  return refused(name, "\"" + text_of(variables, name) + "\": expected a number for each of " +
                           std::to_string(nodes) + " nodes");
}

}  // namespace

std::vector<VariableFlag> torch_variables(const Variables& variables) {
  std::vector<VariableFlag> flags;
  if (text_of(variables, "PET_NNODES").empty()) return flags;
  const auto add = [&](const char* name, FlagAction action) {
    if (std::string value = text_of(variables, name); !value.empty()) {
      flags.push_back({name, action, std::move(value)});
    }
  };
  add("PET_NNODES", FlagAction::kNodes);
  add("PET_NODE_RANK", FlagAction::kNodeRank);
  add("PET_MASTER_ADDR", FlagAction::kMasterAddress);
  add("PET_MASTER_PORT", FlagAction::kMasterPort);
  add("PET_RDZV_ENDPOINT", FlagAction::kRendezvous);
  add("PET_RDZV_ID", FlagAction::kRendezvousId);
  const std::string ranks = text_of(variables, "PET_NPROC_PER_NODE");
  if (ranks.find_first_not_of("0123456789") == std::string::npos) {
    add("PET_NPROC_PER_NODE", FlagAction::kProcesses);
  }
  return flags;
}

Result<std::vector<Host>> slurm_hosts(const Variables& variables) {
  std::vector<Host> hosts;
  const std::string list = text_of(variables, "SLURM_JOB_NODELIST");
  const std::string tasks = text_of(variables, "SLURM_STEP_NUM_TASKS");
  const bool one_of_many = !tasks.empty() && tasks != "1";
  if (list.empty() || text_of(variables, "SLURM_JOB_ID").empty() || one_of_many) return hosts;
  const auto names = base::expand_node_list(list);
  if (!names.ok()) return refused("SLURM_JOB_NODELIST", names.status().message());
  const auto slots = slots_of(variables, names->size());
  if (!slots.ok()) return slots.status();
  const std::string here = text_of(variables, "SLURMD_NODENAME");
  for (size_t i = 0; i < names->size(); ++i) {
    Host host;
    // A node's name in Slurm need not be one that the system knows.
    host.name = (*names)[i] == here ? "localhost" : (*names)[i];
    host.slots = static_cast<int>((*slots)[i]);
    hosts.push_back(std::move(host));
  }
  return hosts;
}

Status take_slurm_hosts(const Variables& variables, LaunchOptions* options) {
  if (!options->hosts.empty() || options->nodes > 1) return Status();
  Result<std::vector<Host>> hosts = slurm_hosts(variables);
  if (!hosts.ok() || hosts->empty()) return hosts.status();
  int& processes = options->processes;
  if (options->mpi) {
    const auto add = [](int sum, const Host& host) { return sum + host.slots; };
    if (processes == 0) processes = std::accumulate(hosts->begin(), hosts->end(), 0, add);
    return Status();
  }
  // One node may have more ranks than tasks.
  if (hosts->size() == 1) hosts->front().slots = std::max(hosts->front().slots, processes);
  options->hosts = std::move(*hosts);
  SshOptions& ssh = options->ssh;
  ssh.by_srun = ssh.port == 0 && ssh.identity_file.empty() && ssh.user.empty() &&
                ssh.command == SshOptions().command;
  return Status();
}

}  // namespace khorus::launch
