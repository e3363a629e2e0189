// Launcher: who started this process, as far as MPI is concerned.
//
// MPI_Init in a process that no MPI launcher started makes a world of one ("singleton"), starts a
// daemon for it, and gives every rank the rank 0: so it is found out first, from the variables that
// launchers leave. They are MPI's, not knobs of Khorus; this is the one place of the backend that
// reads the environment.
//
// Thread rule: any thread. Quick: looks at a few variables.
#pragma once

#include "khorus/status.h"

namespace khorus::backends::mpi {

// Ok under Open MPI's mpirun and under a resource manager with PMIx; else Unavailable says who
// started the process instead, and what to do.
Status check_launcher();

}  // namespace khorus::backends::mpi
