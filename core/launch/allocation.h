// Allocation: what the surroundings of khorusrun have decided already: the nodes of a Slurm
// allocation (salloc, sbatch), and torchrun's PET_ variables, which the Kubeflow trainer sets.
//
// Pure functions of the variables; any thread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/launch/options.h"
#include "khorus/status.h"

namespace khorus::launch {

// The flags for which torchrun's variables stand, in the order in which they apply. Nothing unless
// PET_NNODES is set. PET_NPROC_PER_NODE may be a word ("auto"), and is left out then.
struct VariableFlag {
  std::string name;  // of the variable
  FlagAction action = FlagAction::kNothing;
  std::string value;
};
std::vector<VariableFlag> torch_variables(const std::map<std::string, std::string>& variables);

// The nodes of the Slurm allocation that this process is in, with a slot for each task. Empty: it
// is in none, or is one of several tasks of a step. InvalidArgument names the variable that is
// wrong.
Result<std::vector<Host>> slurm_hosts(const std::map<std::string, std::string>& variables);

// These, if the options name no others; srun reaches them unless the options say how ssh does. With
// --mpi only their number of tasks, for mpirun asks Slurm itself.
Status take_slurm_hosts(const std::map<std::string, std::string>& variables,
                        LaunchOptions* options);

}  // namespace khorus::launch
