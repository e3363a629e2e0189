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

constexpr khorus_backend kBackend = cpu_backend<Communicator>(
    "gloo",
    "Gloo " KHORUS_STRINGIZE(GLOO_VERSION_MAJOR) "." KHORUS_STRINGIZE(
        GLOO_VERSION_MINOR) "." KHORUS_STRINGIZE(GLOO_VERSION_PATCH) " over TCP",
    probe);

}  // namespace
}  // namespace khorus::backends::gloo

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::gloo::kBackend;
}
