// See meeting.h.
#include "backends/local/meeting.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "backends/operation.h"
#include "khorus/types.h"

namespace khorus::backends::local {
namespace {

std::string describe(const khorus_op& op) {
  std::string text = backends::describe(op);
  if (kind_of(op) == OpKind::kAllreduce || kind_of(op) == OpKind::kReducescatter) {
    text += " (";
    text += to_string(static_cast<ReduceOp>(op.reduce_op));
    text += ')';
  }
  if (kind_of(op) == OpKind::kBroadcast) text += " from root " + std::to_string(op.root);
  return text + ", epoch " + std::to_string(op.epoch) + ", sequence " + std::to_string(op.sequence);
}

// All but how many elements: what every rank must say alike.
bool same_operation(const khorus_op& a, const khorus_op& b) {
  return std::tie(a.kind, a.dtype, a.reduce_op, a.device, a.root, a.epoch, a.sequence) ==
         std::tie(b.kind, b.dtype, b.reduce_op, b.device, b.root, b.epoch, b.sequence);
}

bool same_counts(const khorus_op& a, const khorus_op& b, size_t size) {
  switch (kind_of(a)) {
    case OpKind::kAllgather:
    case OpKind::kReducescatter:
      return std::equal(a.counts, a.counts + size, b.counts);
    case OpKind::kAlltoall:
    case OpKind::kSendRecv:
      return true;  // every rank has its own; what one sends the other must expect
    default:
      return a.count == b.count;
  }
}

// What the rank at one place sends to that at another in an alltoall or a send/recv.
uint64_t sent(const khorus_op& op, size_t to) {
  return kind_of(op) == OpKind::kAlltoall ? op.counts[to] : op.count;
}
uint64_t expected(const khorus_op& op, size_t from) {
  return kind_of(op) == OpKind::kAlltoall ? op.recv_counts[from] : op.recv_count;
}

}  // namespace

Meeting::Meeting(std::vector<int32_t> global_ranks)
    : global_ranks_(std::move(global_ranks)), ops_(global_ranks_.size(), nullptr) {}

Status Meeting::enter(size_t place, const khorus_op& op, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (!failure_.ok()) return failure_;
  const uint64_t mine = started_ + 1;
  if (entered_ == 0) std::fill(ops_.begin(), ops_.end(), nullptr);
  ops_[place] = &op;
  if (++entered_ == ops_.size()) {
    const Status same = compare_ops();
    if (!same.ok()) {
      fail_locked(same);
      return failure_;
    }
    entered_ = 0;
    working_ = ops_.size();
    started_ = mine;
    changed_.notify_all();
    return {};
  }
  const bool in_time =
      changed_.wait_for(lock, timeout, [&] { return started_ == mine || !failure_.ok(); });
  if (started_ == mine) return {};  // even if it failed since: the others count on this part
  if (!in_time) {
    fail_locked(Status(StatusCode::kTimeout, "waited " + std::to_string(timeout.count()) +
                                                 " ms in " + describe(op) + " for " +
                                                 missing_ranks()));
  }
  return failure_;
}

Status Meeting::leave() {
  std::unique_lock lock(mutex_);
  const uint64_t mine = started_;
  if (--working_ == 0) {
    finished_ = mine;
    outcome_ = failure_;  // what fails from now on is not this operation
    changed_.notify_all();
  } else {
    // No timeout: the others only move memory now, and stop doing so when the hub has failed.
    changed_.wait(lock, [&] { return finished_ >= mine; });
  }
  return outcome_;
}

void Meeting::fail(const Status& status) {
  const std::scoped_lock lock(mutex_);
  fail_locked(status);
}

void Meeting::fail_locked(const Status& status) {
  if (!failure_.ok()) return;
  failure_ = status;
  failed_.store(true, std::memory_order_relaxed);
  changed_.notify_all();
}

std::string Meeting::name_of(size_t place) const {
  return "rank " + std::to_string(global_ranks_[place]);
}

std::string Meeting::disagreement(size_t one, size_t other) const {
  const khorus_op& a = *ops_[one];
  const khorus_op& b = *ops_[other];
  if (!same_operation(a, b) || !same_counts(a, b, ops_.size())) {
    return "runs " + describe(a) + " and " + name_of(other) + " runs " + describe(b) +
           "; all ranks of a group run the same operations in the same order";
  }
  if (kind_of(a) != OpKind::kAlltoall && kind_of(a) != OpKind::kSendRecv) return {};
  if (sent(a, other) == expected(b, one)) return {};
  return "sends " + std::to_string(sent(a, other)) + " elements to " + name_of(other) +
         ", which expects " + std::to_string(expected(b, one)) + ", in " + describe(a);
}

Status Meeting::compare_ops() const {
  // What ranks send to each other is a matter of every two of them.
  const bool between_two =
      kind_of(*ops_[0]) == OpKind::kAlltoall || kind_of(*ops_[0]) == OpKind::kSendRecv;
  for (size_t one = 0; one < (between_two ? ops_.size() : 1); ++one) {
    for (size_t other = 0; other < ops_.size(); ++other) {
      const std::string text = one == other ? "" : disagreement(one, other);
      // About the later one: the first is what the rest is compared with.
      if (!text.empty()) {
        return Status(StatusCode::kMismatch, name_of(one) + ' ' + text,
                      global_ranks_[std::max(one, other)]);
      }
    }
  }
  return {};
}

std::string Meeting::missing_ranks() const {
  std::string text;
  for (size_t place = 0; place < ops_.size(); ++place) {
    if (ops_[place] != nullptr) continue;
    text += (text.empty() ? "rank " : ", ") + std::to_string(global_ranks_[place]);
  }
  return text;
}

}  // namespace khorus::backends::local
