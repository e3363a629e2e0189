// Arithmetic of the host in the middle of the device's stream: what stands in for a kernel where
// there is none, and for what NCCL does not reduce. Slow: everything goes through pinned memory.
//
// Thread rule: the thread that runs the operations. REQUIRES that the device's context is current.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "backends/nccl/device.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

// An array of the device's memory that the host works on. Several of one step may be the same
// memory if only one is written.
struct Column {
  enum class Use : uint8_t { kRead, kWritten, kBoth };
  std::byte* data;
  size_t width;  // of an element
  Use use = Use::kRead;
};

inline Column read_column(const void* data, size_t width) {
  return {const_cast<std::byte*>(static_cast<const std::byte*>(data)), width, Column::Use::kRead};
}
inline Column written_column(void* data, size_t width) {
  return {static_cast<std::byte*>(data), width, Column::Use::kWritten};
}

// The columns of some elements in the host's memory, in the order of the columns.
using HostStep = std::function<void(const std::vector<std::byte*>& columns, size_t count)>;

// Puts calls of `step` into the stream, for the first elements, the next ones, ... of `count`; on a
// thread of the driver's, one after the other. It must not call CUDA.
Status run_on_host(Device& device, const std::vector<Column>& columns, size_t count,
                   const HostStep& step);

}  // namespace khorus::backends::nccl
