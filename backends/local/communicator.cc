// See communicator.h.
#include "backends/local/communicator.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "backends/plugin.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::local {
namespace {

// Bytes moved between two looks at whether the group has failed: well under a millisecond.
constexpr size_t kBlockBytes = size_t{1} << 20;

size_t bytes_per_element(const khorus_op& op) {
  return element_size(static_cast<DataType>(op.dtype));
}

// Where the block of rank `r` begins in the output of an allgather, in bytes.
size_t block_offset(const khorus_op& op, size_t r) {
  size_t elements = 0;
  for (size_t i = 0; i < r; ++i) elements += op.counts[i];
  return elements * bytes_per_element(op);
}

std::byte* output_at(const khorus_op& op, size_t bytes) {
  return static_cast<std::byte*>(op.output) + bytes;
}

// What rank 0 tells the others; the other ranks send only their process id.
struct Meeting {
  int64_t process = 0;
  HubKey key{};
};

}  // namespace

Result<std::unique_ptr<Communicator>> Communicator::open(const khorus_group& group) {
  if (group.size < 1 || group.rank < 0 || group.rank >= group.size) {
    return Status(StatusCode::kInvalidArgument, "rank " + std::to_string(group.rank) +
                                                    " is not in a group of size " +
                                                    std::to_string(group.size));
  }
  return std::unique_ptr<Communicator>(new Communicator(group));
}

Communicator::Communicator(const khorus_group& group)
    : rank_(group.rank),
      size_(group.size),
      global_ranks_(group.global_ranks, group.global_ranks + group.size),
      timeout_(group.timeout_ms),
      host_(group.host) {}

Communicator::~Communicator() {
  if (hub_ == nullptr) return;
  const int32_t me = global_ranks_[static_cast<size_t>(rank_)];
  hub_->fail(Status(StatusCode::kAborted, "rank " + std::to_string(me) + " left the group", me));
}

Status Communicator::connect() {
  {
    const std::scoped_lock lock(mutex_);
    if (!aborted_.ok()) return aborted_;
  }
  Result<std::shared_ptr<Hub>> met = meet();
  const std::scoped_lock lock(mutex_);
  if (met) hub_ = met.value();
  // An abort that came meanwhile could not reach the hub: tell the others now.
  if (met && !aborted_.ok()) hub_->fail(aborted_);
  return aborted_.ok() ? met.status() : aborted_;
}

Result<std::shared_ptr<Hub>> Communicator::meet() {
  std::shared_ptr<Hub> hub;
  Meeting mine{.process = getpid()};
  if (rank_ == 0) {
    hub = std::make_shared<Hub>(global_ranks_);
    if (size_ == 1) return hub;
    mine.key = publish(hub);
  }
  const std::string bytes(reinterpret_cast<const char*>(&mine), sizeof(mine));
  const Result<Exchanged> all = exchange(*host_, "local", bytes, size_);
  if (!all) return all.status();
  Meeting first;
  const std::string& from_first = (*all).front();
  if (from_first.size() != sizeof(first)) {
    return Status(StatusCode::kInternal, "rank " + std::to_string(global_ranks_[0]) + " sent " +
                                             std::to_string(from_first.size()) +
                                             " bytes to meet by, not " +
                                             std::to_string(sizeof(first)));
  }
  std::memcpy(&first, from_first.data(), sizeof(first));
  if (rank_ != 0) hub = find(first.key);
  if (hub != nullptr) return hub;
  if (first.process == mine.process) {
    return Status(StatusCode::kAborted,
                  "rank " + std::to_string(global_ranks_[0]) +
                      " left the group before this rank "
                      "had joined it",
                  global_ranks_[0]);
  }
  return Status(StatusCode::kUnavailable,
                "the local backend joins threads of one process, but rank " +
                    std::to_string(global_ranks_[0]) + " is in process " +
                    std::to_string(first.process) + " and this rank in " +
                    std::to_string(mine.process) + "; choose another backend");
}

Status Communicator::run(const khorus_op& op) {
  {
    const std::scoped_lock lock(mutex_);
    if (!aborted_.ok()) return aborted_;
    if (hub_ == nullptr) return Status(StatusCode::kInternal, "run before connect");
  }
  // From here on nobody writes hub_: abort() only reads it.
  if (static_cast<OpKind>(op.kind) == OpKind::kAllgather) {
    // The own block goes to its place first; the others read it there. So the input may lie
    // anywhere, also inside the output.
    const size_t bytes = op.count * bytes_per_element(op);
    if (bytes > 0) {
      std::memmove(output_at(op, block_offset(op, static_cast<size_t>(rank_))), op.input, bytes);
    }
  }
  Status status = hub_->enter(rank_, op, timeout_);
  if (status.ok()) {
    work(op);
    status = hub_->leave();
  }
  return status;
}

void Communicator::work(const khorus_op& op) const {
  switch (static_cast<OpKind>(op.kind)) {
    case OpKind::kAllreduce:
      return allreduce_part(op);
    case OpKind::kAllgather:
      return gather_others(op);
    case OpKind::kBroadcast: {
      const khorus_op& root = *hub_->ops()[static_cast<size_t>(op.root)];
      return copy(op.output, root.input, op.count * bytes_per_element(op));
    }
    default:  // not supported: never asked for
      return;
  }
}

// Each rank reduces its part of everyone's input and stores it into everyone's output. An element
// is read and written by one rank only, so in place needs no care.
void Communicator::allreduce_part(const khorus_op& op) const {
  const size_t width = bytes_per_element(op);
  const size_t size = static_cast<size_t>(size_);
  const size_t rank = static_cast<size_t>(rank_);
  const size_t begin = op.count / size * rank + std::min(op.count % size, rank);
  const size_t end = begin + op.count / size + (rank < op.count % size ? 1 : 0);
  const size_t block = kBlockBytes / width;
  std::vector<const void*> sources(size);
  for (size_t start = begin; start < end && !hub_->failed(); start += block) {
    const size_t count = std::min(block, end - start);
    for (size_t r = 0; r < size; ++r) {
      sources[r] = static_cast<const std::byte*>(hub_->ops()[r]->input) + start * width;
    }
    std::byte* mine = output_at(op, start * width);
    base::reduce({static_cast<DataType>(op.dtype), static_cast<ReduceOp>(op.reduce_op), count},
                 mine, sources);
    for (size_t r = 0; r < size; ++r) {
      if (r != rank) std::memcpy(output_at(*hub_->ops()[r], start * width), mine, count * width);
    }
  }
}

void Communicator::gather_others(const khorus_op& op) const {
  size_t offset = 0;
  for (size_t r = 0; r < static_cast<size_t>(size_); ++r) {
    const size_t bytes = op.counts[r] * bytes_per_element(op);
    if (r != static_cast<size_t>(rank_)) {
      copy(output_at(op, offset), output_at(*hub_->ops()[r], offset), bytes);
    }
    offset += bytes;
  }
}

void Communicator::copy(void* destination, const void* source, size_t bytes) const {
  if (destination == source) return;
  for (size_t done = 0; done < bytes && !hub_->failed(); done += kBlockBytes) {
    std::memcpy(static_cast<std::byte*>(destination) + done,
                static_cast<const std::byte*>(source) + done, std::min(kBlockBytes, bytes - done));
  }
}

void Communicator::abort(const std::string& reason) {
  const std::scoped_lock lock(mutex_);
  if (aborted_.ok()) aborted_ = Status(StatusCode::kAborted, reason);
  if (hub_ != nullptr) hub_->fail(aborted_);
}

}  // namespace khorus::backends::local
