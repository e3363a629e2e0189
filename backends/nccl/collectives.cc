// See collectives.h.
#include "backends/nccl/collectives.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "backends/nccl/host_step.h"
#include "backends/operation.h"
#include "core/base/half.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::nccl {
namespace {

ncclDataType_t type_of(const khorus_op& op) {
  switch (static_cast<DataType>(op.dtype)) {
    case DataType::kInt8:
      return ncclInt8;
    case DataType::kInt32:
      return ncclInt32;
    case DataType::kInt64:
      return ncclInt64;
    case DataType::kFloat16:
      return ncclFloat16;
    case DataType::kBfloat16:
      return ncclBfloat16;
    case DataType::kFloat32:
      return ncclFloat32;
    case DataType::kFloat64:
      return ncclFloat64;
    default:  // uint8 and bool; int16 does not come here
      return ncclUint8;
  }
}

ncclRedOp_t op_of(const khorus_op& op) {
  const bool is_bool = static_cast<DataType>(op.dtype) == DataType::kBool;
  switch (static_cast<ReduceOp>(op.reduce_op)) {
    case ReduceOp::kMin:
      return ncclMin;
    case ReduceOp::kMax:
      return ncclMax;
    case ReduceOp::kProduct:
      return is_bool ? ncclMin : ncclProd;
    default:
      return is_bool ? ncclMax : ncclSum;
  }
}

// op.scale as one element.
struct Scalar {
  alignas(8) std::byte bytes[8];
};

Scalar scalar_of(const khorus_op& op) {
  Scalar scalar{};
  const auto put = [&](auto value) { std::memcpy(scalar.bytes, &value, sizeof value); };
  switch (static_cast<DataType>(op.dtype)) {
    case DataType::kFloat16:
      put(base::float_to_float16(static_cast<float>(op.scale)));
      break;
    case DataType::kBfloat16:
      put(base::float_to_bfloat16(static_cast<float>(op.scale)));
      break;
    case DataType::kFloat32:
      put(static_cast<float>(op.scale));
      break;
    default:  // float64; the engine asks for no other
      put(op.scale);
  }
  return scalar;
}

bool is_reduced_on_host(const khorus_op& op) {
  return static_cast<DataType>(op.dtype) == DataType::kInt16;
}

bool are_equal(const uint64_t* counts, size_t size) {
  return std::all_of(counts, counts + size, [&](uint64_t count) { return count == counts[0]; });
}

uint64_t sum_of(const uint64_t* counts, size_t size) {
  return std::accumulate(counts, counts + size, uint64_t{0});
}

}  // namespace

Status Collectives::run(const khorus_op& op) {
  switch (kind_of(op)) {
    case OpKind::kAllreduce:
      if (static_cast<ReduceOp>(op.reduce_op) == ReduceOp::kAdasum) return adasum_.run(op);
      return is_reduced_on_host(op) ? allreduce_on_host(op) : allreduce(op);
    case OpKind::kBroadcast:
      return broadcast(op);
    case OpKind::kAllgather:
      return allgather(op);
    case OpKind::kAlltoall:
      return alltoall(op);
    case OpKind::kReducescatter:
      return is_reduced_on_host(op) ? reducescatter_on_host(op) : reducescatter(op);
    case OpKind::kSendRecv:
      return sendrecv(op);
    default:  // not supported: never asked for
      return {};
  }
}

Status Collectives::allreduce(const khorus_op& op) {
  if (op.count == 0) return {};
  return submit_reduction(op, [&](const Library& nccl, ncclComm_t comm, ncclRedOp_t reduction) {
    return nccl.all_reduce(op.input, op.output, op.count, type_of(op), reduction, comm,
                           device_.stream());
  });
}

Status Collectives::submit_reduction(const khorus_op& op, const Reduce& reduce) {
  if (!is_scaled(op)) {
    return clique_.submit(
        [&](const Library& nccl, ncclComm_t comm) { return reduce(nccl, comm, op_of(op)); });
  }
  Scalar factor = scalar_of(op);
  ncclRedOp_t reduction = ncclSum;
  const Status status = clique_.submit([&](const Library& nccl, ncclComm_t comm) {
    const ncclResult_t made = nccl.red_op_create_pre_mul_sum(&reduction, factor.bytes, type_of(op),
                                                             ncclScalarHostImmediate, comm);
    return made == ncclSuccess ? reduce(nccl, comm, reduction) : made;
  });
  // What was launched has its own factor; a communicator that broke frees its reductions itself.
  if (status.ok()) {
    clique_.call(
        [&](const Library& nccl, ncclComm_t comm) { nccl.red_op_destroy(reduction, comm); });
  }
  return status;
}

Status Collectives::broadcast(const khorus_op& op) {
  if (op.count == 0) return {};
  return clique_.submit([&](const Library& nccl, ncclComm_t comm) {
    return nccl.broadcast(op.input, op.output, op.count * width_of(op), ncclUint8, op.root, comm,
                          device_.stream());
  });
}

Status Collectives::move(std::byte* to, const std::byte* from, size_t bytes) {
  if (to + bytes <= from || from + bytes <= to) return device_.copy(to, from, bytes);
  const Result<std::byte*> scratch = device_.scratch();
  if (!scratch) return scratch.status();
  // What lies in front of its destination moves from its end on.
  const size_t pieces = (bytes + Device::kScratchBytes - 1) / Device::kScratchBytes;
  for (size_t i = 0; i < pieces; ++i) {
    const size_t at = (from < to ? pieces - 1 - i : i) * Device::kScratchBytes;
    const size_t here = std::min(Device::kScratchBytes, bytes - at);
    Status status = device_.copy(*scratch, from + at, here);
    if (status.ok()) status = device_.copy(to + at, *scratch, here);
    if (!status.ok()) return status;
  }
  return {};
}

Status Collectives::allgather(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t me = static_cast<size_t>(rank_);
  std::byte* const place = output_at(op, sum_of(op.counts, me) * width);
  const size_t bytes = op.counts[me] * width;
  const std::byte* input = input_at(op, 0);
  // Elsewhere in the output it would be written over before it is sent.
  const std::byte* const end = output_at(op, sum_of(op.counts, size_) * width);
  if (bytes > 0 && input != place && input < end && input + bytes > output_at(op, 0)) {
    if (Status status = move(place, input, bytes); !status.ok()) return status;
    input = place;
  }
  if (sum_of(op.counts, size_) == 0) return {};
  return clique_.submit([&](const Library& nccl, ncclComm_t comm) {
    if (are_equal(op.counts, size_)) {
      return nccl.all_gather(input, op.output, bytes, ncclUint8, comm, device_.stream());
    }
    CallGroup group;
    std::byte* block = output_at(op, 0);
    for (size_t r = 0; r < size_; ++r) {
      const size_t here = op.counts[r] * width;
      if (here == 0) continue;
      group.add([&] {
        return nccl.broadcast(r == me ? input : block, block, here, ncclUint8, static_cast<int>(r),
                              comm, device_.stream());
      });
      block += here;
    }
    return group.result();
  });
}

Status Collectives::alltoall(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t me = static_cast<size_t>(rank_);
  Status status = device_.copy(output_at(op, sum_of(op.recv_counts, me) * width),
                               input_at(op, sum_of(op.counts, me) * width), op.counts[me] * width);
  if (!status.ok()) return status;
  const uint64_t others =
      sum_of(op.counts, size_) + sum_of(op.recv_counts, size_) - op.counts[me] - op.recv_counts[me];
  if (others == 0) return {};
  return clique_.submit([&](const Library& nccl, ncclComm_t comm) {
    CallGroup group;
    size_t sent = 0;
    size_t received = 0;
    for (size_t r = 0; r < size_; ++r) {
      const int peer = static_cast<int>(r);
      const size_t out = op.counts[r] * width;
      const size_t in = op.recv_counts[r] * width;
      if (r != me && out > 0) {
        group.add([&] {
          return nccl.send(input_at(op, sent), out, ncclUint8, peer, comm, device_.stream());
        });
      }
      if (r != me && in > 0) {
        group.add([&] {
          return nccl.recv(output_at(op, received), in, ncclUint8, peer, comm, device_.stream());
        });
      }
      sent += out;
      received += in;
    }
    return group.result();
  });
}

Status Collectives::reducescatter(const khorus_op& op) {
  if (sum_of(op.counts, size_) == 0) return {};
  return submit_reduction(op, [&](const Library& nccl, ncclComm_t comm, ncclRedOp_t reduction) {
    if (are_equal(op.counts, size_)) {
      return nccl.reduce_scatter(op.input, op.output, op.counts[0], type_of(op), reduction, comm,
                                 device_.stream());
    }
    CallGroup group;
    size_t begin = 0;
    for (size_t r = 0; r < size_; ++r) {
      if (op.counts[r] == 0) continue;
      group.add([&] {
        return nccl.reduce(input_at(op, begin), op.output, op.counts[r], type_of(op), reduction,
                           static_cast<int>(r), comm, device_.stream());
      });
      begin += op.counts[r] * width_of(op);
    }
    return group.result();
  });
}

Status Collectives::sendrecv(const khorus_op& op) {
  const size_t out = op.count * width_of(op);
  const size_t in = op.recv_count * width_of(op);
  if (out == 0 && in == 0) return {};
  return clique_.submit([&](const Library& nccl, ncclComm_t comm) {
    CallGroup group;
    if (out > 0) {
      group.add(
          [&] { return nccl.send(op.input, out, ncclUint8, op.peer, comm, device_.stream()); });
    }
    if (in > 0) {
      group.add(
          [&] { return nccl.recv(op.output, in, ncclUint8, op.peer, comm, device_.stream()); });
    }
    return group.result();
  });
}

// ---- what NCCL does not reduce ----

Status Collectives::reduce_scratch(const khorus_op& op, size_t piece_bytes, size_t count,
                                   std::byte* to) {
  const Result<std::byte*> scratch = device_.scratch();
  if (!scratch) return scratch.status();
  std::vector<Column> columns{written_column(to, width_of(op))};
  for (size_t r = 0; r < size_; ++r) {
    columns.push_back(read_column(*scratch + r * piece_bytes, width_of(op)));
  }
  const auto reduce = [dtype = static_cast<DataType>(op.dtype),
                       reduce_op = static_cast<ReduceOp>(op.reduce_op)](
                          const std::vector<std::byte*>& pieces, size_t here) {
    base::reduce({dtype, reduce_op, here}, pieces[0],
                 std::vector<const void*>(pieces.begin() + 1, pieces.end()));
  };
  return run_on_host(device_, columns, count, reduce);
}

Status Collectives::allreduce_on_host(const khorus_op& op) {
  const Result<std::byte*> scratch = device_.scratch();
  if (!scratch) return scratch.status();
  const size_t longest = piece_bytes() / width_of(op);
  for (size_t done = 0; done < op.count; done += longest) {
    const size_t count = std::min<size_t>(longest, op.count - done);
    const size_t at = done * width_of(op);
    const size_t bytes = count * width_of(op);
    Status status = clique_.submit([&](const Library& nccl, ncclComm_t comm) {
      return nccl.all_gather(input_at(op, at), *scratch, bytes, ncclUint8, comm, device_.stream());
    });
    if (status.ok()) status = reduce_scratch(op, bytes, count, output_at(op, at));
    if (!status.ok()) return status;
  }
  return {};
}

Status Collectives::reducescatter_on_host(const khorus_op& op) {
  const Result<std::byte*> scratch = device_.scratch();
  if (!scratch) return scratch.status();
  const size_t width = width_of(op);
  const size_t me = static_cast<size_t>(rank_);
  const size_t longest = piece_bytes() / width;
  const uint64_t most = *std::max_element(op.counts, op.counts + size_);
  for (size_t done = 0; done < most; done += longest) {
    const auto bytes_of = [&](size_t r) {
      return std::min<size_t>(longest, op.counts[r] - std::min<size_t>(done, op.counts[r])) * width;
    };
    const size_t mine = bytes_of(me);
    Status status = device_.copy(*scratch + me * mine,
                                 input_at(op, (sum_of(op.counts, me) + done) * width), mine);
    if (!status.ok()) return status;
    status = clique_.submit([&](const Library& nccl, ncclComm_t comm) {
      CallGroup group;
      for (size_t r = 0; r < size_; ++r) {
        const int peer = static_cast<int>(r);
        if (r == me) continue;
        const std::byte* const theirs = input_at(op, (sum_of(op.counts, r) + done) * width);
        if (const size_t bytes = bytes_of(r); bytes > 0) {
          group.add(
              [&] { return nccl.send(theirs, bytes, ncclUint8, peer, comm, device_.stream()); });
        }
        if (mine > 0) {
          group.add([&] {
            return nccl.recv(*scratch + r * mine, mine, ncclUint8, peer, comm, device_.stream());
          });
        }
      }
      return group.result();
    });
    if (!status.ok()) return status;
    if (mine == 0) continue;
    status = reduce_scratch(op, mine, mine / width, output_at(op, done * width));
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace khorus::backends::nccl
