// Library: Open MPI, opened at run time.
//
// The plugin links no MPI. A process that was not started by mpirun never loads one, and a missing
// or foreign MPI is a sentence instead of a loader's error. Open MPI's own components do not link
// libmpi: they find its symbols in the global scope, so it is opened with RTLD_GLOBAL, also when
// the application has it already in a scope of its own. mpi.h's constants are addresses inside the
// library (MPI_COMM_WORLD is &ompi_mpi_comm_world), so they are looked up too. libmpi.so.40 is the
// interface of Open MPI 3.0 to 5.0.
//
// Thread rule: load() from any thread; the table is constant afterwards and lives for ever.
#pragma once

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <string>

#include "khorus/status.h"

namespace khorus::backends::mpi {

struct Library {
  // Unavailable says what is missing, or which other MPI is in the process.
  static Result<const Library*> load();
  // Whether the process has it already, by somebody else: then it is looked at, not loaded.
  static bool is_loaded();

  // "MPI_ERR_OTHER: known error not in list"
  std::string describe(int error_code) const;

  decltype(&MPI_Initialized) initialized = nullptr;
  decltype(&MPI_Finalized) finalized = nullptr;
  decltype(&MPI_Init_thread) init_thread = nullptr;
  decltype(&MPI_Query_thread) query_thread = nullptr;
  decltype(&MPI_Finalize) finalize = nullptr;
  decltype(&MPI_Comm_rank) comm_rank = nullptr;
  decltype(&MPI_Comm_size) comm_size = nullptr;
  decltype(&MPI_Comm_group) comm_group = nullptr;
  decltype(&MPI_Comm_get_attr) comm_get_attr = nullptr;
  decltype(&MPI_Comm_create_group) comm_create_group = nullptr;
  decltype(&MPI_Comm_set_errhandler) comm_set_errhandler = nullptr;
  decltype(&MPI_Group_incl) group_incl = nullptr;
  decltype(&MPI_Group_free) group_free = nullptr;
  decltype(&MPI_Isend) isend = nullptr;
  decltype(&MPI_Irecv) irecv = nullptr;
  decltype(&MPI_Testsome) testsome = nullptr;
  decltype(&MPI_Cancel) cancel = nullptr;
  decltype(&MPI_Get_count) get_count = nullptr;
  decltype(&MPI_Error_string) error_string = nullptr;

  MPI_Comm world = nullptr;
  MPI_Comm no_comm = nullptr;
  MPI_Group no_group = nullptr;
  MPI_Request no_request = nullptr;
  MPI_Datatype byte = nullptr;
  MPI_Errhandler errors_return = nullptr;
};

}  // namespace khorus::backends::mpi
