// The local backend: the ranks are threads of one process. The in-process reference.
#include "khorus/backend.h"

#include "backends/local/communicator.h"
#include "backends/plugin.h"
#include "khorus/version.h"

namespace khorus::backends::local {
namespace {

int32_t probe(khorus_error* error) { return report(Status(), error); }

constexpr khorus_backend kBackend = [] {
  khorus_backend backend =
      cpu_backend<Communicator>("local", "threads of one process, " KHORUS_VERSION_STRING, probe);
  backend.in_process_only = 1;
  return backend;
}();

}  // namespace
}  // namespace khorus::backends::local

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::local::kBackend;
}
