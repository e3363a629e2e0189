// See part.h.
#include "backends/local/part.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "backends/operation.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::local {
namespace {

// Bytes moved between two looks at whether the group has failed: well under a millisecond.
constexpr size_t kBlockBytes = size_t{1} << 20;

// Where the block of rank `r` begins, in elements.
size_t block_offset(const uint64_t* counts, size_t r) {
  return std::accumulate(counts, counts + r, size_t{0});
}

}  // namespace

Part::Part(const Meeting& meeting, size_t place, const khorus_op& op)
    : meeting_(meeting), place_(place), op_(op), width_(width_of(op)) {}

void Part::prepare(const khorus_op& op, size_t rank) {
  if (static_cast<OpKind>(op.kind) != OpKind::kAllgather || op.count == 0) return;
  // The own block goes to its place first; the others read it there. So the input may lie anywhere,
  // also inside the output.
  const size_t width = width_of(op);
  std::memmove(output_at(op, block_offset(op.counts, rank) * width), op.input, op.count * width);
}

void Part::work() const {
  switch (static_cast<OpKind>(op_.kind)) {
    case OpKind::kAllreduce:
      return allreduce();
    case OpKind::kAllgather:
      return allgather();
    case OpKind::kBroadcast:
      return copy(op_.output, op_of(static_cast<size_t>(op_.root)).input, op_.count * width_);
    case OpKind::kAlltoall:
      return alltoall();
    case OpKind::kReducescatter:
      return reducescatter();
    case OpKind::kSendRecv:
      return copy(op_.output, op_of(1 - place_).input, op_.recv_count * width_);
    default:  // not supported: never asked for
      return;
  }
}

// Each rank reduces its part of everyone's input and stores it into everyone's output. An element
// is read and written by one rank only, so in place needs no care.
void Part::allreduce() const {
  const size_t begin = op_.count / size() * place_ + std::min(op_.count % size(), place_);
  const size_t end = begin + op_.count / size() + (place_ < op_.count % size() ? 1 : 0);
  const size_t block = kBlockBytes / width_;
  for (size_t start = begin; start < end && !meeting_.failed(); start += block) {
    const size_t count = std::min(block, end - start);
    std::byte* mine = output_at(op_, start * width_);
    reduce(start, count, mine);
    for (size_t r = 0; r < size(); ++r) {
      if (r != place_) std::memcpy(output_at(op_of(r), start * width_), mine, count * width_);
    }
  }
}

void Part::allgather() const {
  size_t offset = 0;
  for (size_t r = 0; r < size(); ++r) {
    const size_t bytes = op_.counts[r] * width_;
    if (r != place_) copy(output_at(op_, offset), output_at(op_of(r), offset), bytes);
    offset += bytes;
  }
}

void Part::alltoall() const {
  size_t offset = 0;
  for (size_t r = 0; r < size(); ++r) {
    const size_t bytes = op_.recv_counts[r] * width_;
    const size_t theirs = block_offset(op_of(r).counts, place_) * width_;
    copy(output_at(op_, offset), input_at(op_of(r), theirs), bytes);
    offset += bytes;
  }
}

void Part::reducescatter() const {
  const size_t begin = block_offset(op_.counts, place_);
  const size_t mine = op_.counts[place_];
  const size_t block = kBlockBytes / width_;
  for (size_t start = 0; start < mine && !meeting_.failed(); start += block) {
    reduce(begin + start, std::min(block, mine - start), output_at(op_, start * width_));
  }
}

void Part::reduce(size_t offset, size_t count, std::byte* destination) const {
  std::vector<const void*> sources(size());
  for (size_t r = 0; r < size(); ++r) sources[r] = input_at(op_of(r), offset * width_);
  base::reduce({static_cast<DataType>(op_.dtype), static_cast<ReduceOp>(op_.reduce_op), count},
               destination, sources);
}

void Part::copy(void* destination, const void* source, size_t bytes) const {
  if (destination == source) return;
  for (size_t done = 0; done < bytes && !meeting_.failed(); done += kBlockBytes) {
    std::memcpy(static_cast<std::byte*>(destination) + done,
                static_cast<const std::byte*>(source) + done, std::min(kBlockBytes, bytes - done));
  }
}

}  // namespace khorus::backends::local
