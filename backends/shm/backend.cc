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

int32_t supports(uint8_t kind, uint8_t dtype, uint8_t reduce_op, uint8_t device) {
  return is_plain_cpu_operation(kind, dtype, reduce_op, device) ? 1 : 0;
}

constexpr khorus_backend kBackend = {
    .struct_size = sizeof(khorus_backend),
    .abi_version = KHORUS_BACKEND_ABI,
    .name = "shm",
    .version = "shared memory of one host, " KHORUS_VERSION_STRING,
    .probe = probe,
    .supports = supports,
    .in_process_only = 0,
    .open = Edge<Communicator>::open,
    .connect = Edge<Communicator>::connect,
    .run = Edge<Communicator>::run,
    .abort = Edge<Communicator>::abort,
    .disconnect = Edge<Communicator>::disconnect,
    .one_host_only = 1,
};

}  // namespace
}  // namespace khorus::backends::shm

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::shm::kBackend;
}
