// The shm backend: shared memory between the processes, and threads, of one host.
#include "khorus/backend.h"

#include "backends/plugin.h"
#include "backends/shm/communicator.h"
#include "backends/shm/meeting.h"
#include "backends/shm/segment.h"
#include "backends/shm/signals.h"
#include "khorus/version.h"

namespace khorus::backends::shm {
namespace {

// A page, a word in it and a socket, made and used as the real ones are: says at once what an old
// kernel or a sandbox refuses.
int32_t probe(khorus_error* error) {
  try {
    const std::shared_ptr<Segment> page = Segment::create(1);
    Signals::try_futex(page->data());
    static_cast<void>(Meeting({}, page));
  } catch (const std::exception& refused) {
    return report(Status(StatusCode::kUnavailable, refused.what()), error);
  }
  return report(Status(), error);
}

constexpr khorus_backend kBackend = [] {
  khorus_backend backend =
      cpu_backend<Communicator>("shm", "shared memory of one host, " KHORUS_VERSION_STRING, probe);
  backend.one_host_only = 1;
  backend.scales = 1;
  backend.allocate = Edge<Communicator>::allocate;
  return backend;
}();

}  // namespace
}  // namespace khorus::backends::shm

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::shm::kBackend;
}
