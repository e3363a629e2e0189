// The mpi backend: between the processes of one mpirun, through Open MPI.
#include "khorus/backend.h"

#include "backends/mpi/communicator.h"
#include "backends/mpi/launcher.h"
#include "backends/mpi/library.h"
#include "backends/plugin.h"

#define KHORUS_STRINGIZE_(x) #x
#define KHORUS_STRINGIZE(x) KHORUS_STRINGIZE_(x)

namespace khorus::backends::mpi {
namespace {

// An application that has MPI loaded may have initialised it in its own way.
int32_t probe(khorus_error* error) {
  if (Library::is_loaded()) {
    const Result<const Library*> library = Library::load();
    int initialized = 0;
    if (library) (*library)->initialized(&initialized);
    if (initialized != 0) return report(Status(), error);
  }
  const Status launched = check_launcher();
  return report(launched.ok() ? Library::load().status() : launched, error);
}

constexpr khorus_backend kBackend = cpu_backend<Communicator>(
    "mpi",
    "Open MPI (libmpi.so.40, built with the headers of " KHORUS_STRINGIZE(
        OMPI_MAJOR_VERSION) "." KHORUS_STRINGIZE(OMPI_MINOR_VERSION) "." KHORUS_STRINGIZE(
        OMPI_RELEASE_VERSION) ")",
    probe);

}  // namespace
}  // namespace khorus::backends::mpi

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::mpi::kBackend;
}
