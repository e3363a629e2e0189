// See coordinator_thread.h.
#include "core/runtime/coordinator_thread.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "core/base/assert.h"
#include "core/runtime/process_stat.h"
#include "core/wire/codec.h"

namespace khorus::runtime {

CoordinatorThread::CoordinatorThread(Options options)
    : options_(std::move(options)),
      channel_(*options_.channel),
      groups_(*options_.groups),
      observer_(*options_.observer),
      timeline_(observer_.timeline()),
      seat_(groups_.seat()),
      node_(options_.node),
      peer_watch_([](int64_t pid) {
        const std::optional<ProcessStat> stat = read_process_stat(pid);
        return stat.has_value() ? stat->state : '?';
      }) {
  published_.fusion_threshold_bytes.store(options_.node.fusion_threshold_bytes);
  published_.flush_window_us.store(options_.node.flush_window_us);
  seat_.set_turn([this] { return turn(Clock::now()); });
}

CoordinatorThread::~CoordinatorThread() {
  KHORUS_ASSERT(!thread_.joinable(), "a coordinator thread was destroyed before join()");
}

void CoordinatorThread::start() {
  thread_ = std::thread([this] { loop(); });
  pthread_setname_np(thread_.native_handle(), "khorus-coord");
}

// ---- any thread ----

Status CoordinatorThread::submit(Batch& batch) {
  observer_.submitted(batch);
  bool first = false;
  Status status = queue_.push(batch, &first);
  if (!status.ok()) {
    observer_.refused(batch, status);
    return status;
  }
  // With the seat lent and nothing else to do, the caller will probably wait at once, and drive.
  if (first && seat_.is_empty()) return status;
  channel_.wake();
  if (!first) seat_.call_thread();
  return status;
}

void CoordinatorThread::set_peers(const std::vector<Hello>& hellos) {
  std::vector<protocol::PeerInfo> peers;
  for (const Hello& hello : hellos) peers.push_back({hello.host, hello.pid});
  std::vector<int> neighbours = node_.children();
  if (node_.parent() >= 0) neighbours.push_back(node_.parent());
  std::vector<PeerWatch::Peer> watched;
  for (const int rank : neighbours) {
    const Hello& hello = hellos[static_cast<size_t>(rank)];
    const bool same_process =
        hello.process == hellos[static_cast<size_t>(options_.node.rank)].process;
    // A pid means the same process only to who sees the same one under it.
    if (!same_process && hello.process == process_identity(hello.pid)) {
      watched.push_back({rank, hello.pid});
    }
  }
  queue_.put([&](TensorQueue::Contents& contents) {
    contents.peers = std::move(peers);
    contents.watched = std::move(watched);
  });
  channel_.wake();
}

void CoordinatorThread::execution_finished() noexcept {
  finished_executions_.fetch_add(1, std::memory_order_seq_cst);
  if (wants_finish_notice_.load(std::memory_order_seq_cst)) channel_.wake();
}

void CoordinatorThread::data_plane_failed(const Status& status) {
  queue_.put([&](TensorQueue::Contents& contents) {
    if (!contents.data_plane_failure.has_value()) contents.data_plane_failure = status;
  });
  channel_.wake();
}

void CoordinatorThread::leave(const std::string& reason) {
  queue_.close(Status(StatusCode::kShutdown, reason));
  queue_.put([&](TensorQueue::Contents& contents) { contents.leave = reason; });
  channel_.wake();
}

void CoordinatorThread::end_now(const Status& status) {
  queue_.close(status);
  queue_.put([&](TensorQueue::Contents& contents) { contents.end_now = status; });
  channel_.wake();
}

bool CoordinatorThread::wait_ended(Clock::time_point deadline) {
  std::unique_lock lock(ended_mutex_);
  return ended_changed_.wait_until(lock, deadline, [this] { return ended_; });
}

void CoordinatorThread::join() {
  if (thread_.joinable()) thread_.join();
}

// ---- the coordinator thread ----

protocol::TimeUs CoordinatorThread::now_us() const {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch())
      .count();
}

void CoordinatorThread::loop() {
  while (turn(next_wakeup())) {
    while (is_idle() && seat_.wanted()) {
      seat_.lend();
      turn(Clock::now());  // what was submitted while the seat was empty has woken nobody
    }
  }
  refuse_latecomers();
  publish_stats();
  const std::lock_guard lock(ended_mutex_);
  ended_ = true;
  ended_changed_.notify_all();
}

bool CoordinatorThread::turn(Clock::time_point deadline) {
  if (ending_) return false;
  events_.clear();
  channel_.poll(deadline, &events_);
  take_finished_executions();
  node_.watch_arrivals(timeline_.enabled());
  take_inputs();
  for (const net::ChannelEvent& event : events_) take_event(event);
  look_after_peers();
  check_failure_deadline();
  step();
  publish_stats();
  return !ending_;
}

bool CoordinatorThread::is_idle() const {
  return works_.empty() && !draining_ && !faulted_ && !leaving_ && !pending_failure_.has_value();
}

CoordinatorThread::Clock::time_point CoordinatorThread::next_wakeup() {
  const auto outstanding = given_executions_ - noted_executions_;
  const bool root_is_full = node_.parent() < 0 && outstanding > 0 &&
                            outstanding >= static_cast<uint64_t>(options_.node.max_in_flight);
  const bool wanted = root_is_full || (draining_ && outstanding > 0);
  wants_finish_notice_.store(wanted, std::memory_order_seq_cst);
  if (wanted && finished_executions_.load(std::memory_order_seq_cst) != noted_executions_) {
    return Clock::now();
  }
  const protocol::TimeUs due =
      std::min({node_.next_deadline(), failure_deadline_us_, peer_watch_.next()});
  if (due == protocol::kNever) return Clock::time_point::max();
  return Clock::time_point(std::chrono::microseconds(due));
}

void CoordinatorThread::take_finished_executions() {
  const uint64_t finished = finished_executions_.load(std::memory_order_seq_cst);
  if (finished == noted_executions_) return;
  node_.executions_finished(static_cast<int>(finished - noted_executions_), now_us());
  noted_executions_ = finished;
}

void CoordinatorThread::take_inputs() {
  TensorQueue::Contents contents = queue_.take();
  if (!contents.peers.empty()) {
    node_.set_peers(std::move(contents.peers));
    peer_watch_.watch(contents.watched, options_.liveness_timeout_us, now_us());
  }
  for (Batch& batch : contents.batches) submit_to_node(std::move(batch));
  if (contents.data_plane_failure.has_value() && !faulted_) {
    pending_failure_ = std::move(contents.data_plane_failure);
    failure_deadline_us_ = now_us() + std::chrono::microseconds(options_.verdict_wait).count();
  }
  if (contents.leave.has_value()) {
    node_.leave(*contents.leave, now_us());
    leaving_ = true;
    if (faulted_) close(kFaultPatience);
  }
  if (contents.end_now.has_value() && !ending_) give_up(*contents.end_now);
}

void CoordinatorThread::submit_to_node(Batch batch) {
  if (*options_.status_page) {
    const wire::Request& last = batch.submissions.back().request;
    options_.status_page->note_operation(std::string(to_string(last.kind)) + " \"" + last.name +
                                         "\"");
  }
  for (size_t i = 0; i < batch.works.size(); ++i) {
    works_.emplace(batch.submissions[i].ticket, std::move(batch.works[i]));
  }
  node_.submit(std::move(batch.submissions), now_us());
}

void CoordinatorThread::take_event(const net::ChannelEvent& event) {
  if (event.kind == net::ChannelEvent::Kind::kClosed) {
    node_.peer_closed(event.peer, event.reason, now_us());
    return;
  }
  const Result<wire::Frame> frame = wire::decode(event.frame);
  if (frame.ok()) {
    node_.receive(event.peer, *frame, now_us());
  } else {
    node_.data_plane_failed(
        Status(StatusCode::kInternal,
               "rank " + std::to_string(event.peer) +
                   " sent a frame that cannot be read: " + frame.status().message()),
        now_us());
  }
}

void CoordinatorThread::look_after_peers() {
  for (const PeerWatch::Lost& lost : peer_watch_.look(now_us())) {
    node_.peer_closed(lost.rank, lost.reason, now_us());
  }
}

void CoordinatorThread::step() {
  while (!ending_) {
    carry_out(node_.tick(now_us()));
    if (!draining_ || ending_ || faulted_) return;
    take_finished_executions();
    if (given_executions_ != noted_executions_) return;
    draining_ = false;
    node_.drained(now_us());
  }
}

void CoordinatorThread::carry_out(protocol::Output output) {
  // First what peers wait for: after a fault they must learn the cause before this process ends.
  for (const auto& [peer, frame] : output.frames) channel_.send(peer, wire::encode(frame));
  for (const protocol::LogLine& line : output.log) options_.logger->log(line.level, line.text);
  if (output.waited_for) observer_.waited_for();
  if (!output.arrivals.empty()) observer_.arrived(output.arrivals);
  if (options_.autotune != nullptr) autotune(output.executions);
  if (timeline_.cycles_marked()) {
    for (size_t i = 0; i < output.agreed_rounds.size(); ++i) timeline_.mark("CYCLE_START");
  }
  if (output.fault.has_value()) fault(*output.fault);
  for (const protocol::SetChange& change : output.set_changes) {
    if (!change.added) continue;
    groups_.add(change.id, change.members.to_vector());
    observer_.set_group(change.id, change.members.to_vector());
  }
  run(std::move(output.executions));
  complete(std::move(output.completions));
  if (output.fault.has_value()) fail_everything(*output.fault);
  if (output.shutdown) {
    queue_.close(output.shutdown_status);
    draining_ = true;
  }
  if (output.goodbye) close(kGoodbyePatience);
  if (output.fault.has_value() && leaving_) close(kFaultPatience);
}

void CoordinatorThread::run(std::vector<protocol::Execution> executions) {
  if (executions.empty()) return;
  std::map<ProcessSetId, std::vector<Job>> jobs;
  for (protocol::Execution& execution : executions) {
    const ProcessGroupPtr group = groups_.find(execution.response.process_set);
    KHORUS_ASSERT(group != nullptr, "an operation of a process set that this rank does not know");
    Job job;
    job.sequence = execution.sequence << 32 | uint64_t{execution.index} << 8;
    job.response = std::move(execution.response);
    job.works.reserve(execution.tickets.size());
    for (size_t i = 0; i < execution.tickets.size(); ++i) {
      const uint64_t ticket = execution.tickets[i];
      job.works.push_back(ticket != 0 ? take_work(ticket)
                                      : stand_in(job.response.tensors[i], group->lane()));
    }
    if (!execution.meets_only) observer_.agreed(job, execution.first_position);
    ++given_executions_;
    if (is_on_device(job)) {
      groups_.device_lane().push(group, std::move(job));
    } else {
      jobs[job.response.process_set].push_back(std::move(job));
    }
  }
  for (auto& [id, list] : jobs) groups_.find(id)->lane()->push(std::move(list));
}

WorkStatePtr CoordinatorThread::stand_in(const wire::ResponseTensor& tensor,
                                         const std::shared_ptr<Lane>& lane) {
  const wire::Request& request = tensor.request;
  WorkState::Operation operation;
  operation.name = request.name;
  operation.kind = request.kind;
  operation.input.dtype = request.dtype;
  operation.input.shape = request.shape;  // of an allgather or alltoall without rows
  operation.input.device.kind = request.device;
  const size_t bytes = operation.input.bytes();
  if (request.device == DeviceKind::kCpu) {  // else the runner has its memory
    operation.input.owner = allocate_aligned(bytes);
    operation.input.data = operation.input.owner.get();
    if (operation.input.data != nullptr) std::memset(operation.input.data, 0, bytes);
  }
  operation.output = operation.input;
  if (request.kind == OpKind::kAlltoall) {
    operation.splits.assign(groups_.find(request.process_set)->ranks().size(), 0);
  }
  return std::make_shared<WorkState>(std::move(operation), lane);
}

void CoordinatorThread::autotune(const std::vector<protocol::Execution>& executions) {
  const std::optional<protocol::FusionSettings> change =
      options_.autotune->agreed(executions, now_us());
  if (!change.has_value()) return;
  node_.set_fusion(change->threshold_bytes, change->window_us);
  published_.fusion_threshold_bytes.store(change->threshold_bytes, std::memory_order_relaxed);
  published_.flush_window_us.store(change->window_us, std::memory_order_relaxed);
}

void CoordinatorThread::complete(std::vector<protocol::Completion> completions) {
  if (completions.empty()) return;
  std::vector<std::pair<WorkStatePtr, Status>> over;
  over.reserve(completions.size());
  for (protocol::Completion& completion : completions) {
    WorkStatePtr work = take_work(completion.ticket);
    observer_.over(*work, completion.status, completion.position);
    work->set_payloads(std::move(completion.payloads));
    work->set_value(completion.value);
    over.emplace_back(std::move(work), std::move(completion.status));
  }
  finish(over);
}

void CoordinatorThread::finish(const std::vector<std::pair<WorkStatePtr, Status>>& over) {
  std::map<Lane*, std::vector<Lane::Finished>> by_lane;
  for (const auto& [work, status] : over) {
    by_lane[work->lane().get()].push_back({work.get(), status});
  }
  for (const auto& [lane, finished] : by_lane) lane->finish(finished);
}

WorkStatePtr CoordinatorThread::take_work(uint64_t ticket) {
  const auto it = works_.find(ticket);
  KHORUS_ASSERT(it != works_.end(), "the protocol named an operation that is not in flight");
  WorkStatePtr work = std::move(it->second);
  works_.erase(it);
  return work;
}

}  // namespace khorus::runtime
