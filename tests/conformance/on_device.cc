// See on_device.h.
#include "tests/conformance/on_device.h"

#include <numeric>

#include "khorus/types.h"

namespace khorus::conformance {

OnDevice::Bytes bytes_of(const khorus_op& op, int rank, int size) {
  const auto total = [&](const uint64_t* counts) {
    return std::accumulate(counts, counts + size, uint64_t{0});
  };
  const uint64_t width = element_size(static_cast<DataType>(op.dtype));
  switch (static_cast<OpKind>(op.kind)) {
    case OpKind::kAllgather:
      return {op.count * width, total(op.counts) * width};
    case OpKind::kAlltoall:
      return {op.count * width, total(op.recv_counts) * width};
    case OpKind::kReducescatter:
      return {op.count * width, op.counts[rank] * width};
    case OpKind::kSendRecv:
      return {op.count * width, op.recv_count * width};
    default:
      return {op.count * width, op.count * width};
  }
}

int32_t run_anywhere(const khorus_backend& backend, khorus_comm* comm, OnDevice* device,
                     const khorus_op& op, const OnDevice::Bytes& bytes, khorus_error* error) {
  if (device == nullptr) return backend.run(comm, &op, error);
  khorus_op there = op;
  there.device = static_cast<uint8_t>(DeviceKind::kCuda);
  return device->run(backend, comm, there, bytes, error);
}

}  // namespace khorus::conformance
