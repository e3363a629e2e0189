// See communicator.h.
#include "backends/shm/communicator.h"

#include <poll.h>

#include <utility>

#include "backends/operation.h"
#include "backends/plugin.h"
#include "core/base/fork_guard.h"
#include "khorus/options.h"
#include "khorus/types.h"

namespace khorus::backends::shm {
Result<std::unique_ptr<Communicator>> Communicator::open(const khorus_group& group) {
  if (Status status = check_group(group, "shm"); !status.ok()) return status;
  return std::unique_ptr<Communicator>(new Communicator(group));
}

Communicator::Communicator(const khorus_group& group)
    : rank_(group.rank),
      global_ranks_(group.global_ranks, group.global_ranks + group.size),
      hosts_(group.hosts, group.hosts + group.size),
      timeout_(group.timeout_ms),
      host_(group.host),
      layout_(group.size),
      process_(base::fork_generation()) {}

Communicator::~Communicator() { leave(); }

Status Communicator::aborted() const {
  const std::scoped_lock lock(mutex_);
  return aborted_;
}

Status Communicator::connect() {
  if (Status status = aborted(); !status.ok()) return status;
  const Status status = meet();
  connected_ = status.ok();
  if (!connected_) leave();
  const Status reason = aborted();
  return reason.ok() ? status : reason;
}

Status Communicator::meet() {
  const int size = static_cast<int>(global_ranks_.size());
  try {
    std::shared_ptr<Segment> own = Segment::create(layout_.total_bytes());
    if (size == 1) {
      std::vector<Neighbour> alone(1);
      alone[0].segment = std::move(own);
      start(std::move(alone));
      return {};
    }
    Meeting meeting({.rank = rank_,
                     .size = size,
                     .segment_bytes = layout_.total_bytes(),
                     .timeout = timeout_,
                     .interrupt = &interrupt_},
                    std::move(own));
    const Result<Exchanged> cards = exchange(*host_, "shm", meeting.card(), size);
    if (!cards) return cards.status();
    start(meeting.meet(*cards));
    // From here on a rank may leave: nobody has to find it any more.
    signals_->tick(1);
    signals_->wait_all(1);
  } catch (const Failure& failure) {
    return explain(failure, "connecting");
  } catch (const std::exception& error) {
    return Status(StatusCode::kUnavailable,
                  std::string("cannot connect the group by shared memory: ") + error.what());
  }
  return {};
}

void Communicator::start(std::vector<Neighbour> neighbours) {
  neighbours_ = std::move(neighbours);
  std::vector<std::byte*> segments;
  for (const Neighbour& neighbour : neighbours_) segments.push_back(neighbour.segment->data());
  neighbours_[static_cast<size_t>(rank_)].segment->close_descriptor();
  // abort() may come now, and tells the others through what is made here.
  const std::scoped_lock lock(mutex_);
  signals_.emplace(
      Signals::Options{.rank = rank_,
                       .timeout = timeout_,
                       .interrupt = &interrupt_,
                       .process_ended = [this](int peer) { return process_ended(peer); }},
      layout_, segments);
  arenas_.emplace(rank_, neighbours_);
  collectives_.emplace(rank_, layout_, segments, *signals_, *arenas_);
}

// Packets may lie there unread (arenas.h), so what can be read says nothing.
bool Communicator::process_ended(int peer) const {
  const Descriptor& connection = neighbours_[static_cast<size_t>(peer)].connection;
  if (!connection) return false;
  pollfd poll{connection.get(), POLLRDHUP, 0};
  return ::poll(&poll, 1, 0) > 0;
}

Status Communicator::run(const khorus_op& op) {
  if (Status status = aborted(); !status.ok()) return status;
  if (!broken_.ok()) return broken_;
  if (!connected_) return Status(StatusCode::kInternal, "run before connect");
  if (base::fork_generation() != process_) {
    return Status(StatusCode::kUnavailable, "a forked child has no part in its parent's groups");
  }
  try {
    collectives_->run(op);
    return {};
  } catch (const Failure& failure) {
    broken_ = explain(failure, describe(op));
  } catch (const std::exception& error) {
    broken_ = Status(StatusCode::kInternal, describe(op) + ": " + error.what());
  }
  leave();
  const Status reason = aborted();
  return reason.ok() ? broken_ : reason;
}

Result<khorus_memory> Communicator::allocate(size_t bytes) {
  if (!connected_ || neighbours_.size() == 1) {
    return Status(StatusCode::kUnavailable, "there is nobody to share memory with");
  }
  auto segment = std::make_unique<std::shared_ptr<Segment>>(arenas_->allocate(bytes));
  khorus_memory memory{};
  memory.struct_size = sizeof(memory);
  memory.data = (*segment)->data();
  memory.owner = segment.release();
  memory.release = [](void* owner) { delete static_cast<std::shared_ptr<Segment>*>(owner); };
  return memory;
}

Status Communicator::explain(const Failure& failure, const std::string& doing) const {
  if (failure.peer() < 0) return Status(StatusCode::kAborted, doing + ": " + failure.what());
  const size_t peer = static_cast<size_t>(failure.peer());
  const int32_t rank = global_ranks_[peer];
  const std::string text = doing + ": rank " + std::to_string(rank) + " on " + hosts_[peer];
  switch (failure.cause()) {
    case Failure::Cause::kTimeout:
      return Status(StatusCode::kTimeout,
                    text + " did not answer within " + std::to_string(timeout_.count()) + " ms",
                    rank);
    case Failure::Cause::kMismatch:
      return Status(StatusCode::kMismatch, text + ": " + failure.what(), rank);
    case Failure::Cause::kUnreachable:
      return Status(StatusCode::kUnavailable, text + ": " + failure.what(), rank);
    default:
      // Whether the rank died or gave up is the engine's to tell.
      return Status(StatusCode::kAborted, text + ": " + failure.what(), rank);
  }
}

void Communicator::abort(const std::string& reason) {
  const std::scoped_lock lock(mutex_);
  if (aborted_.ok()) aborted_ = Status(StatusCode::kAborted, reason);
  interrupt_.raise();
  leave();
}

// The others hear of it at once, not when they have waited in vain. In a forked child there is
// nothing to leave: the group is the parent's, and so is its memory.
void Communicator::leave() noexcept {
  if (signals_ && base::fork_generation() == process_) signals_->leave();
}

}  // namespace khorus::backends::shm
