// LauncherPlace: this process's place in a job that another launcher than khorusrun has started.
//
// Each launcher leaves rank and size in variables of its own; one that left all it should is
// believed, in the order torchrun, Open MPI, MPICH, Slurm: a launcher that runs inside another one
// started the process. Last come the plain RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. Pure
// functions of the variables: any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "khorus/status.h"

namespace khorus::base {

struct LauncherPlace {
  std::string launcher;  // "mpirun (Open MPI)"
  std::string job_id;    // equal on all ranks of the job and of no other on this host; may be empty
  std::string store;     // of several hosts: "host:port" where rank 0 can serve a store; or empty
  int64_t rank = 0, size = 1;
  int64_t local_rank = 0, local_size = 1;
  int64_t cross_rank = 0, cross_size = 1;
  std::string error_file;  // where the launcher looks for why this process failed; may be empty
};

// Nothing when no launcher is found. InvalidArgument names the variable that is not a number, or
// the place that cannot be.
Result<std::optional<LauncherPlace>> find_launcher_place(
    const std::map<std::string, std::string>& variables);

}  // namespace khorus::base
