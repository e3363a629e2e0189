// See collectives.h.
#include "backends/mpi/collectives.h"

#include <algorithm>
#include <cstring>

#include "backends/operation.h"
#include "core/base/reduce.h"
#include "khorus/types.h"

namespace khorus::backends::mpi {
namespace {

// Bytes that one round of small messages may add up to, by sender.
constexpr size_t kSmallRoundBytes = size_t{64} << 10;
// Where the second part of a message begins: what is read there is aligned for every type.
constexpr size_t kAlignment = 64;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

const std::byte* input_of(const khorus_op& op) { return static_cast<const std::byte*>(op.input); }
std::byte* output_of(const khorus_op& op) { return static_cast<std::byte*>(op.output); }

void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, bytes);
}

}  // namespace

// How an array is cut into blocks of one slice per rank.
class Collectives::Blocks {
 public:
  Blocks(size_t elements, size_t slice_elements, int ranks)
      : elements_(elements),
        ranks_(static_cast<size_t>(ranks)),
        block_elements_(slice_elements * ranks_) {}

  size_t count() const { return (elements_ + block_elements_ - 1) / block_elements_; }
  Slice slice(size_t block, int rank) const {
    const size_t begin = block * block_elements_;
    const size_t here = std::min(block_elements_, elements_ - begin);
    const size_t r = static_cast<size_t>(rank);
    return {begin + here / ranks_ * r + std::min(here % ranks_, r),
            here / ranks_ + (r < here % ranks_ ? 1 : 0)};
  }

 private:
  const size_t elements_;
  const size_t ranks_;
  const size_t block_elements_;
};

Collectives::Collectives(Mesh& mesh)
    : mesh_(mesh),
      parcels_(static_cast<size_t>(mesh.size())),
      sources_(static_cast<size_t>(mesh.size())) {}

void Collectives::run(const khorus_op& op) {
  std::fill(parcels_.begin(), parcels_.end(), Parcel());
  switch (static_cast<OpKind>(op.kind)) {
    case OpKind::kAllreduce:
      return allreduce(op);
    case OpKind::kBroadcast:
      return broadcast(op);
    case OpKind::kAllgather:
      return allgather(op);
    case OpKind::kAlltoall:
      return alltoall(op);
    case OpKind::kReducescatter:
      return reducescatter(op);
    case OpKind::kSendRecv:
      return sendrecv(op);
    default:  // not supported: never asked for
      return;
  }
}

bool Collectives::is_small(size_t bytes) const {
  return bytes <= mesh_.slot_bytes() &&
         bytes * static_cast<size_t>(mesh_.size() - 1) <= kSmallRoundBytes;
}

void Collectives::reduce(const khorus_op& op, void* destination, size_t count,
                         const std::byte* mine,
                         const std::function<const std::byte*(int)>& theirs) {
  if (count == 0) return;
  for (int r = 0; r < mesh_.size(); ++r) {
    sources_[static_cast<size_t>(r)] = r == mesh_.rank() ? mine : theirs(r);
  }
  base::reduce({static_cast<DataType>(op.dtype), static_cast<ReduceOp>(op.reduce_op), count},
               destination, sources_);
}

void Collectives::small_allreduce(const khorus_op& op) {
  const size_t bytes = op.count * width_of(op);
  for (int r = 0; r < mesh_.size(); ++r) {
    if (r == mesh_.rank()) continue;
    copy_bytes(mesh_.outgoing(r), op.input, bytes);
    parcels_[static_cast<size_t>(r)] = {bytes, bytes};
  }
  mesh_.round(parcels_);
  reduce(op, op.output, op.count, input_of(op), [&](int r) { return mesh_.incoming(r); });
}

// A message holds this rank's reduced slice of the block before, then the peer's slice of this one.
void Collectives::allreduce(const khorus_op& op) {
  const size_t width = width_of(op);
  if (is_small(op.count * width)) return small_allreduce(op);
  const Blocks blocks(op.count, (mesh_.slot_bytes() / 2 - kAlignment) / width, mesh_.size());
  for (size_t b = 0; b <= blocks.count(); ++b) {
    const bool gathers = b > 0;
    const bool scatters = b < blocks.count();
    const auto before = [&](int r) { return gathers ? blocks.slice(b - 1, r) : Slice(); };
    const auto now = [&](int r) { return scatters ? blocks.slice(b, r) : Slice(); };
    const Slice reduced = before(mesh_.rank());
    const Slice mine = now(mesh_.rank());
    for (int r = 0; r < mesh_.size(); ++r) {
      if (r == mesh_.rank()) continue;
      std::byte* const message = mesh_.outgoing(r);
      const size_t second = aligned(reduced.count * width);
      copy_bytes(message, output_of(op) + reduced.begin * width, reduced.count * width);
      copy_bytes(message + second, input_of(op) + now(r).begin * width, now(r).count * width);
      parcels_[static_cast<size_t>(r)] = {second + now(r).count * width,
                                          aligned(before(r).count * width) + mine.count * width};
    }
    mesh_.round(parcels_);
    for (int r = 0; r < mesh_.size(); ++r) {
      if (r == mesh_.rank()) continue;
      const Slice theirs = before(r);
      copy_bytes(output_of(op) + theirs.begin * width, mesh_.incoming(r), theirs.count * width);
    }
    reduce(op, output_of(op) + mine.begin * width, mine.count, input_of(op) + mine.begin * width,
           [&](int r) { return mesh_.incoming(r) + aligned(before(r).count * width); });
  }
}

void Collectives::small_broadcast(const khorus_op& op) {
  const size_t bytes = op.count * width_of(op);
  const bool is_root = op.root == mesh_.rank();
  for (int r = 0; r < mesh_.size(); ++r) {
    if (r == mesh_.rank() || (!is_root && r != op.root)) continue;
    if (is_root) copy_bytes(mesh_.outgoing(r), op.input, bytes);
    parcels_[static_cast<size_t>(r)] = {is_root ? bytes : 0, is_root ? 0 : bytes};
  }
  mesh_.round(parcels_);
  copy_bytes(op.output, is_root ? op.input : mesh_.incoming(op.root), bytes);
}

// As allreduce, with slices that come from the root alone. The root's own need not be sent to it.
void Collectives::broadcast(const khorus_op& op) {
  const size_t width = width_of(op);
  if (is_small(op.count * width)) return small_broadcast(op);
  const bool is_root = op.root == mesh_.rank();
  if (is_root) copy_bytes(op.output, op.input, op.count * width);
  const Blocks blocks(op.count, (mesh_.slot_bytes() / 2 - kAlignment) / width, mesh_.size());
  for (size_t b = 0; b <= blocks.count(); ++b) {
    const auto before = [&](int r) { return b > 0 ? blocks.slice(b - 1, r) : Slice(); };
    const auto now = [&](int r) { return b < blocks.count() ? blocks.slice(b, r) : Slice(); };
    // What `from` sends to `to` in this round: a slice it passes on, a slice it hands out.
    const auto passed_on = [&](int from, int to) { return to == op.root ? Slice() : before(from); };
    const auto handed_out = [&](int from, int to) { return from == op.root ? now(to) : Slice(); };
    for (int r = 0; r < mesh_.size(); ++r) {
      if (r == mesh_.rank()) continue;
      const Slice first = passed_on(mesh_.rank(), r);
      const Slice then = handed_out(mesh_.rank(), r);
      std::byte* const message = mesh_.outgoing(r);
      copy_bytes(message, output_of(op) + first.begin * width, first.count * width);
      copy_bytes(message + aligned(first.count * width), output_of(op) + then.begin * width,
                 then.count * width);
      parcels_[static_cast<size_t>(r)] = {aligned(first.count * width) + then.count * width,
                                          aligned(passed_on(r, mesh_.rank()).count * width) +
                                              handed_out(r, mesh_.rank()).count * width};
    }
    mesh_.round(parcels_);
    for (int r = 0; r < mesh_.size(); ++r) {
      if (r == mesh_.rank()) continue;
      const Slice first = passed_on(r, mesh_.rank());
      const Slice then = handed_out(r, mesh_.rank());
      copy_bytes(output_of(op) + first.begin * width, mesh_.incoming(r), first.count * width);
      copy_bytes(output_of(op) + then.begin * width,
                 mesh_.incoming(r) + aligned(first.count * width), then.count * width);
    }
  }
}

void Collectives::move(std::vector<Block>& blocks) {
  for (;;) {
    bool more = false;
    for (int r = 0; r < mesh_.size(); ++r) {
      if (r == mesh_.rank()) continue;
      const Block& block = blocks[static_cast<size_t>(r)];
      const Parcel parcel{std::min(block.send, mesh_.slot_bytes()),
                          std::min(block.receive, mesh_.slot_bytes())};
      copy_bytes(mesh_.outgoing(r), block.from, parcel.send);
      parcels_[static_cast<size_t>(r)] = parcel;
      more = more || parcel.send > 0 || parcel.receive > 0;
    }
    if (!more) return;
    mesh_.round(parcels_);
    for (int r = 0; r < mesh_.size(); ++r) {
      if (r == mesh_.rank()) continue;
      Block& block = blocks[static_cast<size_t>(r)];
      const Parcel& parcel = parcels_[static_cast<size_t>(r)];
      copy_bytes(block.to, mesh_.incoming(r), parcel.receive);
      if (parcel.send > 0) block.from += parcel.send;
      if (parcel.receive > 0) block.to += parcel.receive;
      block.send -= parcel.send;
      block.receive -= parcel.receive;
    }
  }
}

void Collectives::allgather(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t size = static_cast<size_t>(mesh_.size());
  std::vector<Block> blocks(size);
  std::byte* to = output_of(op);
  for (size_t r = 0; r < size; ++r) {
    blocks[r].to = to;
    blocks[r].receive = op.counts[r] * width;
    if (blocks[r].receive > 0) to += blocks[r].receive;
  }
  // The own block goes to its place first and is sent from there: so the input may lie anywhere,
  // also inside the output.
  const Block& mine = blocks[static_cast<size_t>(mesh_.rank())];
  if (mine.receive > 0) std::memmove(mine.to, op.input, mine.receive);
  for (Block& block : blocks) {
    block.from = mine.to;
    block.send = mine.receive;
  }
  move(blocks);
}

void Collectives::alltoall(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t size = static_cast<size_t>(mesh_.size());
  std::vector<Block> blocks(size);
  const std::byte* from = input_of(op);
  std::byte* to = output_of(op);
  for (size_t r = 0; r < size; ++r) {
    blocks[r] = {from, op.counts[r] * width, to, op.recv_counts[r] * width};
    if (blocks[r].send > 0) from += blocks[r].send;
    if (blocks[r].receive > 0) to += blocks[r].receive;
  }
  const Block& mine = blocks[static_cast<size_t>(mesh_.rank())];
  copy_bytes(mine.to, mine.from, mine.send);
  move(blocks);
}

void Collectives::reducescatter(const khorus_op& op) {
  const size_t width = width_of(op);
  const size_t size = static_cast<size_t>(mesh_.size());
  std::vector<size_t> begins(size);
  size_t longest = 0;
  for (size_t r = 0, begin = 0; r < size; ++r) {
    begins[r] = begin;
    begin += op.counts[r];
    longest = std::max<size_t>(longest, op.counts[r]);
  }
  const size_t piece = mesh_.slot_bytes() / width;
  const size_t me = static_cast<size_t>(mesh_.rank());
  for (size_t done = 0; done < longest; done += piece) {
    const auto here = [&](size_t r) {
      return op.counts[r] > done ? std::min<size_t>(op.counts[r] - done, piece) : 0;
    };
    for (size_t r = 0; r < size; ++r) {
      if (r == me) continue;
      if (here(r) > 0) {
        copy_bytes(mesh_.outgoing(static_cast<int>(r)), input_of(op) + (begins[r] + done) * width,
                   here(r) * width);
      }
      parcels_[r] = {here(r) * width, here(me) * width};
    }
    mesh_.round(parcels_);
    if (here(me) == 0) continue;
    reduce(op, output_of(op) + done * width, here(me), input_of(op) + (begins[me] + done) * width,
           [&](int r) { return mesh_.incoming(r); });
  }
}

void Collectives::sendrecv(const khorus_op& op) {
  std::vector<Block> blocks(static_cast<size_t>(mesh_.size()));
  blocks[static_cast<size_t>(op.peer)] = {input_of(op), op.count * width_of(op), output_of(op),
                                          op.recv_count * width_of(op)};
  move(blocks);
}

}  // namespace khorus::backends::mpi
