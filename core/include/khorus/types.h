// The words of the field: data types, reductions, operations, devices, shapes.
//
// Plain values without behaviour. The numeric values of the enums travel on the wire and through
// backend.h: append, never renumber.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "khorus/export.h"

namespace khorus {

enum class DataType : uint8_t {
  kUint8 = 0,
  kInt8 = 1,
  kInt16 = 2,
  kInt32 = 3,
  kInt64 = 4,
  kFloat16 = 5,
  kBfloat16 = 6,
  kFloat32 = 7,
  kFloat64 = 8,
  kBool = 9,
};
inline constexpr int kDataTypeCount = 10;

enum class ReduceOp : uint8_t {
  kSum = 0,
  kAverage = 1,
  kMin = 2,
  kMax = 3,
  kProduct = 4,
  // Adds what two gradients do not have in common (Maleki et al., "Scaling Distributed Training
  // with Adaptive Summation", MLSys 2021): pairs of ranks, pairs of pairs, ... Needs a power of two
  // ranks.
  kAdasum = 5,
};
inline constexpr int kReduceOpCount = 6;

// What a rank asks for. Those from kJoin on, kBarrier and kExchange live on the control channel
// alone; kExchange carries a few bytes per rank.
enum class OpKind : uint8_t {
  kAllreduce = 0,
  kAllgather = 1,
  kBroadcast = 2,
  kBarrier = 3,
  kExchange = 4,
  kAlltoall = 5,
  kReducescatter = 6,
  kSendRecv = 7,  // between two ranks
  kJoin = 8,
  kAddProcessSet = 9,
  kRemoveProcessSet = 10,
};
inline constexpr int kOpKindCount = 11;

enum class DeviceKind : uint8_t { kCpu = 0, kCuda = 1 };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

// Extents, outermost first. An empty shape is a scalar: one element.
using Shape = std::vector<int64_t>;

// Which ranks take part. 0 is the set of all ranks.
using ProcessSetId = int32_t;
inline constexpr ProcessSetId kGlobalProcessSet = 0;

// Bytes per element: 1, 2, 4 or 8.
KHORUS_API size_t element_size(DataType dtype) noexcept;
// Number of elements: the product of the extents; 1 for a scalar.
KHORUS_API int64_t element_count(const Shape& shape) noexcept;

KHORUS_API std::string_view to_string(DataType dtype) noexcept;   // "float32"
KHORUS_API std::string_view to_string(ReduceOp op) noexcept;      // "sum"
KHORUS_API std::string_view to_string(OpKind kind) noexcept;      // "allreduce"
KHORUS_API std::string_view to_string(DeviceKind kind) noexcept;  // "cpu"
KHORUS_API std::string to_string(const Shape& shape);             // "[4096,1024]"
KHORUS_API std::string to_string(const Device& device);           // "cuda:1"

// A tensor that somebody else owns: contiguous, row-major memory.
//
// `owner`, when set, keeps `data` alive: Khorus holds it until the operation is over. When it is
// not set the caller keeps the memory valid until the Work is done.
// `stream` and `ready_event` are for device tensors (an opaque cudaStream_t / cudaEvent_t); null
// on the CPU.
struct TensorView {
  void* data = nullptr;
  DataType dtype = DataType::kFloat32;
  Shape shape;
  Device device;
  void* stream = nullptr;
  void* ready_event = nullptr;
  std::shared_ptr<void> owner;

  size_t bytes() const noexcept {
    return static_cast<size_t>(element_count(shape)) * element_size(dtype);
  }
};

}  // namespace khorus
