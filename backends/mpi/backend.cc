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

int32_t supports(uint8_t kind, uint8_t dtype, uint8_t reduce_op, uint8_t device) {
  return is_plain_cpu_operation(kind, dtype, reduce_op, device) ? 1 : 0;
}

constexpr khorus_backend kBackend = {
    .struct_size = sizeof(khorus_backend),
    .abi_version = KHORUS_BACKEND_ABI,
    .name = "mpi",
    .version = "Open MPI (libmpi.so.40, built with the headers of " KHORUS_STRINGIZE(
        OMPI_MAJOR_VERSION) "." KHORUS_STRINGIZE(OMPI_MINOR_VERSION) "." KHORUS_STRINGIZE(
        OMPI_RELEASE_VERSION) ")",
    .probe = probe,
    .supports = supports,
    .in_process_only = 0,
    .open = Edge<Communicator>::open,
    .connect = Edge<Communicator>::connect,
    .run = Edge<Communicator>::run,
    .abort = Edge<Communicator>::abort,
    .disconnect = Edge<Communicator>::disconnect,
    .one_host_only = 0,
};

}  // namespace
}  // namespace khorus::backends::mpi

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::mpi::kBackend;
}
