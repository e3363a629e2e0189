// The gloo backend: TCP between processes, through the Gloo library.
#include "khorus/backend.h"

#include <gloo/config.h>

#include "backends/gloo/communicator.h"
#include "backends/plugin.h"

#define KHORUS_STRINGIZE_(x) #x
#define KHORUS_STRINGIZE(x) KHORUS_STRINGIZE_(x)

namespace khorus::backends::gloo {
namespace {

int32_t probe(khorus_error* error) { return report(Status(), error); }

int32_t supports(uint8_t kind, uint8_t dtype, uint8_t reduce_op, uint8_t device) {
  return is_plain_cpu_operation(kind, dtype, reduce_op, device) ? 1 : 0;
}

constexpr khorus_backend kBackend = {
    .struct_size = sizeof(khorus_backend),
    .abi_version = KHORUS_BACKEND_ABI,
    .name = "gloo",
    .version = "Gloo " KHORUS_STRINGIZE(GLOO_VERSION_MAJOR) "." KHORUS_STRINGIZE(
        GLOO_VERSION_MINOR) "." KHORUS_STRINGIZE(GLOO_VERSION_PATCH) " over TCP",
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
}  // namespace khorus::backends::gloo

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::gloo::kBackend;
}
