// See communicator.h.
#include "backends/local/communicator.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "backends/in_process.h"
#include "backends/local/part.h"
#include "backends/plugin.h"
#include "khorus/types.h"

namespace khorus::backends::local {
namespace {

// What rank 0 tells the others: the token under which it has published the group's hub, which they
// look up. The other ranks send only their process id.
struct Invitation {
  int64_t process = 0;
  Token token;
};

}  // namespace

Result<std::unique_ptr<Communicator>> Communicator::open(const khorus_group& group) {
  if (Status status = check_group(group, nullptr); !status.ok()) return status;
  return std::unique_ptr<Communicator>(new Communicator(group));
}

Communicator::Communicator(const khorus_group& group)
    : rank_(group.rank),
      size_(group.size),
      global_ranks_(group.global_ranks, group.global_ranks + group.size),
      timeout_(group.timeout_ms),
      host_(group.host) {}

Communicator::~Communicator() {
  if (hub_ != nullptr) break_off("left the group");
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
  Invitation mine{.process = getpid(), .token = {}};
  if (rank_ == 0) {
    hub = std::make_shared<Hub>(global_ranks_);
    if (size_ == 1) return hub;
    mine.token = random_token();
    InProcess<Hub>::publish(mine.token, hub);
  }
  const std::string bytes(reinterpret_cast<const char*>(&mine), sizeof(mine));
  const Result<Exchanged> all = exchange(*host_, "local", bytes, size_);
  if (!all) return all.status();
  Invitation first;
  const std::string& from_first = (*all).front();
  if (from_first.size() != sizeof(first)) {
    return Status(StatusCode::kInternal, "rank " + std::to_string(global_ranks_[0]) + " sent " +
                                             std::to_string(from_first.size()) +
                                             " bytes to meet by, not " +
                                             std::to_string(sizeof(first)));
  }
  std::memcpy(&first, from_first.data(), sizeof(first));
  if (rank_ != 0) hub = InProcess<Hub>::find(first.token);
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
  Status status = run_together(op);
  // The group cannot count on a rank after an error. Those who were there got the error itself.
  if (!status.ok()) break_off("gave up: " + status.message());
  return status;
}

Status Communicator::run_together(const khorus_op& op) {
  const size_t rank = static_cast<size_t>(rank_);
  Meeting* meeting = &hub_->all();
  size_t place = rank;
  if (static_cast<OpKind>(op.kind) == OpKind::kSendRecv) {
    if (op.peer < 0 || op.peer >= size_ || op.peer == rank_) {
      return Status(StatusCode::kInvalidArgument,
                    "rank " + std::to_string(rank_) + " of a group of size " +
                        std::to_string(size_) + " cannot send to rank " + std::to_string(op.peer) +
                        " of it");
    }
    const size_t peer = static_cast<size_t>(op.peer);
    meeting = &hub_->pair(std::min(rank, peer), std::max(rank, peer));
    place = rank < peer ? 0 : 1;
  }
  Part::prepare(op, rank);
  if (Status status = meeting->enter(place, op, timeout_); !status.ok()) return status;
  Part(*meeting, place, op).work();
  return meeting->leave();
}

void Communicator::break_off(const std::string& what) const {
  const int32_t me = global_ranks_[static_cast<size_t>(rank_)];
  hub_->break_off(static_cast<size_t>(rank_),
                  Status(StatusCode::kAborted, "rank " + std::to_string(me) + ' ' + what, me));
}

void Communicator::abort(const std::string& reason) {
  const std::scoped_lock lock(mutex_);
  if (aborted_.ok()) aborted_ = Status(StatusCode::kAborted, reason);
  if (hub_ != nullptr) hub_->fail(aborted_);
}

}  // namespace khorus::backends::local
