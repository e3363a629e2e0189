// See hub.h.
#include "backends/local/hub.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <system_error>
#include <tuple>

#include "khorus/types.h"

namespace khorus::backends::local {
namespace {

std::string describe(const khorus_op& op) {
  std::string text(to_string(static_cast<OpKind>(op.kind)));
  text += " of ";
  text += std::to_string(op.count);
  text += ' ';
  text += to_string(static_cast<DataType>(op.dtype));
  if (static_cast<OpKind>(op.kind) == OpKind::kAllreduce) {
    text += " (";
    text += to_string(static_cast<ReduceOp>(op.reduce_op));
    text += ')';
  }
  if (static_cast<OpKind>(op.kind) == OpKind::kBroadcast) {
    text += " from root " + std::to_string(op.root);
  }
  return text + ", epoch " + std::to_string(op.epoch) + ", sequence " + std::to_string(op.sequence);
}

bool agree(const khorus_op& a, const khorus_op& b, size_t group_size) {
  if (std::tie(a.kind, a.dtype, a.reduce_op, a.device, a.root, a.epoch, a.sequence) !=
      std::tie(b.kind, b.dtype, b.reduce_op, b.device, b.root, b.epoch, b.sequence)) {
    return false;
  }
  if (static_cast<OpKind>(a.kind) != OpKind::kAllgather) return a.count == b.count;
  return std::equal(a.counts, a.counts + group_size, b.counts);
}

struct HubTable {
  std::mutex mutex;
  std::map<HubKey, std::weak_ptr<Hub>> hubs;
};
HubTable& hub_table() {
  static HubTable table;
  return table;
}

}  // namespace

Hub::Hub(std::vector<int32_t> global_ranks)
    : global_ranks_(std::move(global_ranks)), ops_(global_ranks_.size(), nullptr) {}

Status Hub::enter(int rank, const khorus_op& op, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (!failure_.ok()) return failure_;
  const uint64_t mine = started_ + 1;
  if (entered_ == 0) std::fill(ops_.begin(), ops_.end(), nullptr);
  ops_[static_cast<size_t>(rank)] = &op;
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

Status Hub::leave() {
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

void Hub::fail(const Status& status) {
  const std::scoped_lock lock(mutex_);
  fail_locked(status);
}

void Hub::fail_locked(const Status& status) {
  if (!failure_.ok()) return;
  failure_ = status;
  failed_.store(true, std::memory_order_relaxed);
  changed_.notify_all();
}

Status Hub::compare_ops() const {
  for (size_t r = 1; r < ops_.size(); ++r) {
    if (agree(*ops_[0], *ops_[r], ops_.size())) continue;
    return Status(StatusCode::kMismatch,
                  "rank " + std::to_string(global_ranks_[0]) + " runs " + describe(*ops_[0]) +
                      " and rank " + std::to_string(global_ranks_[r]) + " runs " +
                      describe(*ops_[r]) +
                      "; all ranks of a group run the same operations in the "
                      "same order",
                  global_ranks_[r]);
  }
  return {};
}

std::string Hub::missing_ranks() const {
  std::string text;
  for (size_t r = 0; r < ops_.size(); ++r) {
    if (ops_[r] != nullptr) continue;
    text += (text.empty() ? "rank " : ", ") + std::to_string(global_ranks_[r]);
  }
  return text;
}

bool HubKey::operator<(const HubKey& other) const {
  return std::tie(words[0], words[1]) < std::tie(other.words[0], other.words[1]);
}

HubKey publish(const std::shared_ptr<Hub>& hub) {
  HubKey key{};
  if (getrandom(&key, sizeof(key), 0) != static_cast<ssize_t>(sizeof(key))) {
    throw std::system_error(errno, std::generic_category(), "getrandom");
  }
  HubTable& table = hub_table();
  const std::scoped_lock lock(table.mutex);
  std::erase_if(table.hubs, [](const auto& entry) { return entry.second.expired(); });
  table.hubs[key] = hub;
  return key;
}

std::shared_ptr<Hub> find(const HubKey& key) {
  HubTable& table = hub_table();
  const std::scoped_lock lock(table.mutex);
  const auto found = table.hubs.find(key);
  return found == table.hubs.end() ? nullptr : found->second.lock();
}

}  // namespace khorus::backends::local
