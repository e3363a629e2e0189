// See operations.h; "NCCL API", NVIDIA's documentation.
#include "tests/gpu/double/operations.h"

#include <cstring>

#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::gpu_double {
namespace {

DataType type_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
      return DataType::kInt8;
    case ncclUint8:
      return DataType::kUint8;
    case ncclInt32:
      return DataType::kInt32;
    case ncclInt64:
      return DataType::kInt64;
    case ncclFloat16:
      return DataType::kFloat16;
    case ncclBfloat16:
      return DataType::kBfloat16;
    case ncclFloat32:
      return DataType::kFloat32;
    case ncclFloat64:
      return DataType::kFloat64;
    default:
      violation("the double knows no NCCL data type " + std::to_string(type));
  }
}

ReduceOp op_of(ncclRedOp_t op) {
  switch (op) {
    case ncclSum:
      return ReduceOp::kSum;
    case ncclProd:
      return ReduceOp::kProduct;
    case ncclMax:
      return ReduceOp::kMax;
    case ncclMin:
      return ReduceOp::kMin;
    default:
      violation("the double knows no NCCL reduction " + std::to_string(op));
  }
}

// What the ranks must agree on: NCCL chooses its way by the reduction, too.
uint64_t number_of(const Operation& operation) {
  return static_cast<uint64_t>(operation.kind) + 10 * static_cast<uint64_t>(operation.op) +
         (operation.is_multiplied ? 100 : 0);
}

// Runs one collective on one rank.
class Collective {
 public:
  Collective(Mesh& mesh, const Operation& operation, int rank, int size)
      : mesh_(mesh),
        operation_(operation),
        rank_(rank),
        size_(size),
        bytes_(operation.count * width_of(operation.type)) {
    const std::vector<Access> accesses = accesses_of(operation, rank, size);
    for (const Access& access : accesses) {
      (access.writes ? output_ : input_) = view_of(access.address, access.bytes);
    }
  }

  Mesh::Outcome run() {
    switch (operation_.kind) {
      case Kind::kAllReduce:
        return all_reduce();
      case Kind::kReduce:
        return reduce();
      case Kind::kBroadcast:
        return broadcast();
      case Kind::kAllGather:
        return all_gather();
      default:
        return reduce_scatter();
    }
  }

 private:
  Mesh::Outcome exchange(const std::vector<Message>& messages) {
    return mesh_.exchange(number_of(operation_), messages);
  }
  // `to`: what everybody has at `from`; here and below, blocks of `bytes_` by rank.
  Mesh::Outcome gather(std::vector<std::vector<std::byte>>& all, std::byte* from, size_t bytes) {
    std::vector<Message> messages;
    all.assign(static_cast<size_t>(size_), {});
    for (int r = 0; r < size_; ++r) {
      auto& block = all[static_cast<size_t>(r)];
      block.resize(bytes);
      if (r == rank_) {
        std::memcpy(block.data(), from, bytes);
        continue;
      }
      messages.push_back({r, true, from, bytes});
      messages.push_back({r, false, block.data(), bytes});
    }
    return exchange(messages);
  }
  // Elements begin..begin+count of everybody's block, around the ring that ends at `owner`.
  void combine(const std::vector<std::vector<std::byte>>& all, int owner, size_t begin,
               size_t count, std::byte* to) const {
    const size_t width = width_of(operation_.type);
    const base::Reduction reduction{type_of(operation_.type), op_of(operation_.op), count};
    std::vector<std::byte> multiplied(count * width);
    for (int step = 0; step < size_ && count > 0; ++step) {
      const size_t r = static_cast<size_t>((owner + 1 + step) % size_);
      const std::byte* theirs = all[r].data() + begin * width;
      if (operation_.factor != 1) {
        base::copy_scaled(reduction.dtype, multiplied.data(), theirs, count, operation_.factor);
        theirs = multiplied.data();
      }
      if (step == 0) {
        std::memcpy(to, theirs, count * width);
      } else {
        base::accumulate(reduction, to, theirs);
      }
    }
  }
  Mesh::Outcome all_reduce() {
    std::vector<std::vector<std::byte>> all;
    const Mesh::Outcome outcome = gather(all, input_, bytes_);
    if (outcome != Mesh::Outcome::kDone) return outcome;
    const size_t ranks = static_cast<size_t>(size_);
    for (size_t r = 0; r < ranks; ++r) {
      const size_t begin = operation_.count * r / ranks;
      const size_t end = operation_.count * (r + 1) / ranks;
      combine(all, static_cast<int>(r), begin, end - begin,
              output_ + begin * width_of(operation_.type));
    }
    return outcome;
  }
  Mesh::Outcome reduce() {
    std::vector<std::vector<std::byte>> all;
    if (rank_ != operation_.peer) return exchange({{operation_.peer, true, input_, bytes_}});
    std::vector<Message> messages;
    all.assign(static_cast<size_t>(size_), std::vector<std::byte>(bytes_));
    for (int r = 0; r < size_; ++r) {
      std::byte* const block = all[static_cast<size_t>(r)].data();
      if (r == rank_) {
        std::memcpy(block, input_, bytes_);
      } else {
        messages.push_back({r, false, block, bytes_});
      }
    }
    const Mesh::Outcome outcome = exchange(messages);
    if (outcome == Mesh::Outcome::kDone) combine(all, rank_, 0, operation_.count, output_);
    return outcome;
  }
  Mesh::Outcome broadcast() {
    if (rank_ != operation_.peer) return exchange({{operation_.peer, false, output_, bytes_}});
    std::vector<Message> messages;
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) messages.push_back({r, true, input_, bytes_});
    }
    const Mesh::Outcome outcome = exchange(messages);
    if (output_ != input_) std::memcpy(output_, input_, bytes_);
    return outcome;
  }
  Mesh::Outcome all_gather() {
    std::vector<Message> messages;
    for (int r = 0; r < size_; ++r) {
      std::byte* const block = output_ + static_cast<size_t>(r) * bytes_;
      if (r != rank_) {
        messages.push_back({r, true, input_, bytes_});
        messages.push_back({r, false, block, bytes_});
      } else if (block != input_) {
        std::memcpy(block, input_, bytes_);
      }
    }
    return exchange(messages);
  }
  Mesh::Outcome reduce_scatter() {
    std::vector<std::vector<std::byte>> all(static_cast<size_t>(size_),
                                            std::vector<std::byte>(bytes_));
    std::vector<Message> messages;
    for (int r = 0; r < size_; ++r) {
      std::byte* const mine = input_ + static_cast<size_t>(r) * bytes_;
      std::byte* const theirs = all[static_cast<size_t>(r)].data();
      if (r == rank_) {
        std::memcpy(theirs, mine, bytes_);
        continue;
      }
      messages.push_back({r, true, mine, bytes_});
      messages.push_back({r, false, theirs, bytes_});
    }
    const Mesh::Outcome outcome = exchange(messages);
    if (outcome == Mesh::Outcome::kDone) combine(all, rank_, 0, operation_.count, output_);
    return outcome;
  }

  Mesh& mesh_;
  const Operation& operation_;
  const int rank_;
  const int size_;
  const size_t bytes_;
  std::byte* input_ = nullptr;
  std::byte* output_ = nullptr;
};

bool is_pairwise(const Operation& operation) {
  return operation.kind == Kind::kSend || operation.kind == Kind::kRecv;
}

}  // namespace

size_t width_of(ncclDataType_t type) { return element_size(type_of(type)); }

double value_of(ncclDataType_t type, const void* element) {
  float narrow = 0;
  double wide = 0;
  switch (type) {
    case ncclFloat16:
    case ncclBfloat16:
      base::widen(type_of(type), &narrow, element, 1);
      return narrow;
    case ncclFloat32:
      std::memcpy(&narrow, element, sizeof narrow);
      return narrow;
    case ncclFloat64:
      std::memcpy(&wide, element, sizeof wide);
      return wide;
    default:
      violation("the double multiplies floats only");
  }
}

std::string name_of(const Operation& operation) {
  static constexpr const char* kNames[] = {"ncclAllReduce", "ncclReduce",        "ncclBroadcast",
                                           "ncclAllGather", "ncclReduceScatter", "ncclSend",
                                           "ncclRecv"};
  return std::string(kNames[static_cast<size_t>(operation.kind)]) + " of " +
         std::to_string(operation.count) + " elements";
}

std::vector<Access> accesses_of(const Operation& operation, int rank, int size) {
  const size_t bytes = operation.count * width_of(operation.type);
  const size_t all = bytes * static_cast<size_t>(size);
  const Access reads{operation.input, bytes, false};
  const Access writes{operation.output, bytes, true};
  switch (operation.kind) {
    case Kind::kAllReduce:
      return {reads, writes};
    case Kind::kReduce:
      return rank == operation.peer ? std::vector{reads, writes} : std::vector{reads};
    case Kind::kBroadcast:
      return rank == operation.peer ? std::vector{reads, writes} : std::vector{writes};
    case Kind::kAllGather:
      return {reads, {operation.output, all, true}};
    case Kind::kReduceScatter:
      return {{operation.input, all, false}, writes};
    case Kind::kSend:
      return {reads};
    default:
      return {writes};
  }
}

Mesh::Outcome run(Mesh& mesh, const std::vector<Operation>& operations, int rank, int size) {
  if (!is_pairwise(operations.front())) {
    return Collective(mesh, operations.front(), rank, size).run();
  }
  std::vector<Message> messages;
  for (const Operation& operation : operations) {
    const bool sends = operation.kind == Kind::kSend;
    const size_t bytes = operation.count * width_of(operation.type);
    std::byte* const at = view_of(sends ? operation.input : operation.output, bytes);
    if (operation.peer == rank) violation("a rank sends to itself; the double has no such path");
    messages.push_back({operation.peer, sends, at, bytes});
  }
  return mesh.exchange(static_cast<uint64_t>(Kind::kSend), messages);
}

}  // namespace khorus::gpu_double
