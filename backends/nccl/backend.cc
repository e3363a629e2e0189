// The nccl backend: between GPUs, by NCCL.
#include "khorus/backend.h"

#include <string>

#include "backends/nccl/communicator.h"
#include "backends/nccl/driver.h"
#include "backends/nccl/kernels/image.h"
#include "backends/nccl/library.h"
#include "backends/nccl/symbols.h"
#include "backends/operation.h"
#include "backends/plugin.h"

#define KHORUS_STRINGIZE_(x) #x
#define KHORUS_STRINGIZE(x) KHORUS_STRINGIZE_(x)

namespace khorus::backends::nccl {
namespace {

int32_t probe(khorus_error* error) {
  const Status driver = Driver::load().status();
  return report(driver.ok() ? Library::load().status() : driver, error);
}

int32_t devices() {
  const Result<const Driver*> driver = Driver::load();
  return driver ? (*driver)->devices : 0;
}

std::string describe_all() {
  std::string text;
  if (const Result<const Library*> library = Library::load()) {
    const Library& nccl = **library;
    text = "NCCL " + nccl.version_text() + ", " + nccl.path + ", " + nccl.why;
    if (!nccl.absent.empty()) text += "; it has no " + enumerate(nccl.absent);
  } else {
    text = library.status().message();
  }
  if (const Result<const Driver*> driver = Driver::load()) {
    text += "; a driver for CUDA " + std::to_string((*driver)->version / 1000) + "." +
            std::to_string((*driver)->version / 10 % 100) + " shows " +
            std::to_string((*driver)->devices) + " GPU" + ((*driver)->devices == 1 ? "" : "s");
  }
  if (kernel_image() == nullptr) text += "; no kernels (built without nvcc)";
  return text;
}

const char* describe() {
  static const std::string text = describe_all();
  return text.c_str();
}

// The same as the backends of the CPU, elsewhere; and Adasum, whose sums they leave to the engine.
int32_t supports(uint8_t kind, uint8_t dtype, uint8_t reduce_op, uint8_t device) {
  if (device != static_cast<uint8_t>(DeviceKind::kCuda)) return 0;
  if (reduce_op == static_cast<uint8_t>(ReduceOp::kAdasum)) {
    return static_cast<OpKind>(kind) == OpKind::kAllreduce && is_float(static_cast<DataType>(dtype))
               ? 1
               : 0;
  }
  return supports_on_cpu(kind, dtype, reduce_op, static_cast<uint8_t>(DeviceKind::kCpu));
}

constexpr khorus_backend make_backend() {
  khorus_backend backend = cpu_backend<Communicator>(
      "nccl",
      "NCCL (libnccl.so.2, built with the headers of " KHORUS_STRINGIZE(
          NCCL_MAJOR) "." KHORUS_STRINGIZE(NCCL_MINOR) "." KHORUS_STRINGIZE(NCCL_PATCH) ")",
      probe);
  backend.supports = supports;
  backend.allocate = Edge<Communicator>::allocate;
  backend.describe = describe;
  backend.order = Edge<Communicator>::order;
  backend.finish = Edge<Communicator>::finish;
  backend.times = Edge<Communicator>::times;
  backend.devices = devices;
  return backend;
}
constexpr khorus_backend kBackend = make_backend();

}  // namespace
}  // namespace khorus::backends::nccl

extern "C" __attribute__((visibility("default"))) const khorus_backend* KHORUS_BACKEND_ENTRY() {
  return &khorus::backends::nccl::kBackend;
}
