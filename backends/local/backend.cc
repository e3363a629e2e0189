// The local backend: the ranks are threads of one process. The in-process reference.
#include "khorus/backend.h"

#include "backends/local/communicator.h"
#include "backends/plugin.h"
#include "khorus/version.h"

namespace khorus::backends::local {
namespace {

int32_t probe(khorus_error* error) { return report(Status(), error); }

int32_t supports(uint8_t kind, uint8_t dtype, uint8_t reduce_op, uint8_t device) {
  return is_plain_cpu_operation(kind, dtype, reduce_op, device) ? 1 : 0;
}

constexpr khorus_backend kBackend = {
    .struct_size = sizeof(khorus_backend),
    .abi_version = KHORUS_BACKEND_ABI,
    .name = "local",
    .version = "threads of one process, " KHORUS_VERSION_STRING,
    .probe = probe,
    .supports = supports,
    .in_process_only = 1,
    .open = Edge<Communicator>::open,
    .connect = Edge<Communicator>::connect,
    .run = Edge<Communicator>::run,
    .abort = Edge<Communicator>::abort,
    .disconnect = Edge<Communicator>::disconnect,
    .one_host_only = 0,
};

}  // namespace
}  // namespace khorus::backends::local

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::local::kBackend;
}
