// See communicator.h.
#include "backends/gloo/communicator.h"

#include <utility>

#include "backends/gloo/interface.h"
#include "backends/gloo/no_sigpipe.h"
#include "backends/operation.h"
#include "backends/plugin.h"
#include "khorus/options.h"
#include "khorus/types.h"

namespace khorus::backends::gloo {
Result<std::unique_ptr<Communicator>> Communicator::open(const khorus_group& group) {
  if (Status status = check_group(group, "gloo"); !status.ok()) return status;
  std::string interface;
  if (group.size > 1) {
    try {
      interface = choose_interface(group);
    } catch (const std::runtime_error& error) {
      return Status(StatusCode::kUnavailable, error.what());
    }
  }
  return std::unique_ptr<Communicator>(new Communicator(group, interface));
}

Communicator::Communicator(const khorus_group& group, const std::string& interface)
    : global_ranks_(group.global_ranks, group.global_ranks + group.size),
      hosts_(group.hosts, group.hosts + group.size),
      timeout_ms_(group.timeout_ms),
      interface_(interface),
      host_(group.host),
      mesh_({.rank = group.rank,
             .size = group.size,
             .timeout = std::chrono::milliseconds(group.timeout_ms),
             .interface = interface}),
      collectives_(mesh_) {}

Status Communicator::aborted() const {
  const std::scoped_lock lock(mutex_);
  return aborted_;
}

Status Communicator::connect() {
  if (Status status = aborted(); !status.ok()) return status;
  const NoSigpipe no_sigpipe;
  Status status = mesh_.size() > 1 ? meet() : Status();
  connected_ = status.ok();
  if (const Status reason = aborted(); !reason.ok()) status = reason;
  return status;
}

Status Communicator::meet() {
  try {
    const std::string card = mesh_.listen();
    const Result<Exchanged> cards = exchange(*host_, "gloo", card, mesh_.size());
    if (!cards) return cards.status();
    mesh_.connect(*cards);
    log_where();
  } catch (const Failure& failure) {
    mesh_.give_up();
    return explain(failure, "connecting");
  } catch (const std::exception& error) {
    return Status(StatusCode::kUnavailable,
                  std::string("cannot connect the group: ") + error.what());
  }
  return {};
}

// Once per group. That what leaves the host is neither encrypted nor authenticated says the engine.
void Communicator::log_where() const {
  if (mesh_.rank() != 0 || host_->log == nullptr) return;
  const std::string text =
      interface_.empty() ? "gloo: connected over loopback" : "gloo: connected over " + interface_;
  host_->log(host_->engine, static_cast<int32_t>(LogLevel::kInfo), text.c_str());
}

Status Communicator::run(const khorus_op& op) {
  if (Status status = aborted(); !status.ok()) return status;
  if (!broken_.ok()) return broken_;
  if (!connected_) return Status(StatusCode::kInternal, "run before connect");
  const NoSigpipe no_sigpipe;
  try {
    run_collective(op);
  } catch (const Failure& failure) {
    mesh_.give_up();
    broken_ = explain(failure, describe(op));
    const Status reason = aborted();
    return reason.ok() ? broken_ : reason;
  }
  return {};
}

void Communicator::run_collective(const khorus_op& op) {
  switch (static_cast<OpKind>(op.kind)) {
    case OpKind::kAllreduce:
      return collectives_.allreduce(op);
    case OpKind::kAllgather:
      return collectives_.allgather(op);
    case OpKind::kBroadcast:
      return collectives_.broadcast(op);
    case OpKind::kAlltoall:
      return collectives_.alltoall(op);
    case OpKind::kReducescatter:
      return collectives_.reducescatter(op);
    case OpKind::kSendRecv:
      return collectives_.sendrecv(op);
    default:  // not supported: never asked for
      return;
  }
}

Status Communicator::explain(const Failure& failure, const std::string& doing) const {
  if (failure.peer() < 0) return Status(StatusCode::kAborted, doing + ": " + failure.what());
  const size_t peer = static_cast<size_t>(failure.peer());
  const int32_t rank = global_ranks_[peer];
  std::string text = doing + ": rank " + std::to_string(rank) + " on " + hosts_[peer];
  if (failure.timed_out()) {
    text += " did not answer within " + std::to_string(timeout_ms_) + " ms";
    return Status(StatusCode::kTimeout, text, rank);
  }
  // A closed connection does not say whether the rank died or gave up: that is the engine's to
  // tell.
  return Status(StatusCode::kAborted, text + ": " + failure.what(), rank);
}

void Communicator::abort(const std::string& reason) {
  {
    const std::scoped_lock lock(mutex_);
    if (aborted_.ok()) aborted_ = Status(StatusCode::kAborted, reason);
  }
  mesh_.interrupt();
}

}  // namespace khorus::backends::gloo
