// See launcher.h.
#include "backends/mpi/launcher.h"

#include <cstdlib>

namespace khorus::backends::mpi {
namespace {

bool is_set(const char* name) { return std::getenv(name) != nullptr; }

}  // namespace

Status check_launcher() {
  // mpirun sets both; a Slurm or other manager with PMIx the second only.
  if (is_set("OMPI_COMM_WORLD_RANK") || (is_set("PMIX_RANK") && is_set("PMIX_NAMESPACE"))) {
    return {};
  }
  if (is_set("PMI_RANK") || is_set("PMI_FD")) {
    return Status(StatusCode::kUnavailable,
                  "this job was started by another MPI's launcher (PMI_RANK is set: MPICH, Intel "
                  "MPI or MVAPICH); the mpi backend works with Open MPI: start the job with its "
                  "mpirun, or with khorusrun --mpi");
  }
  return Status(StatusCode::kUnavailable,
                "this process was not started by Open MPI's mpirun (neither OMPI_COMM_WORLD_RANK "
                "nor PMIX_RANK is set); start the job with mpirun, or with khorusrun --mpi");
}

}  // namespace khorus::backends::mpi
