// See world.h.
#include "tests/sim/world.h"

#include <algorithm>
#include <utility>

#include "core/base/assert.h"
#include "core/protocol/tensor_key.h"
#include "core/wire/codec.h"

namespace khorus::sim {
namespace {

constexpr uint64_t kWorldStream = 77;
constexpr double kSpuriousWake = 0.02;
constexpr TimeUs kHorizonUs = 1'000'000'000'000;  // beyond every plan: only a stall goes on so long

uint64_t place_of(const protocol::Execution& execution) {
  return execution.sequence << 32 | execution.index;
}

}  // namespace

const char* to_string(RankState state) {
  switch (state) {
    case RankState::kRunning:
      return "running";
    case RankState::kGoodbye:
      return "goodbye";
    case RankState::kFaulted:
      return "faulted";
    case RankState::kCrashed:
      return "crashed";
  }
  return "?";
}

protocol::PeerInfo peer_info(int rank) { return {"node-" + std::to_string(rank / 8), 1000 + rank}; }

World::World(const Scenario& scenario, std::vector<Observer*> observers, Tamper tamper)
    : scenario_(scenario),
      workload_(scenario),
      observers_(std::move(observers)),
      tamper_(std::move(tamper)),
      random_(Random(scenario.seed).derive(kWorldStream)),
      network_(scenario.timing.link_delay_max_us),
      data_plane_(scenario.ranks),
      processes_(static_cast<size_t>(scenario.ranks)) {
  for (int rank = 0; rank < scenario.ranks; ++rank) sets_[kGlobalProcessSet].push_back(rank);
  std::vector<protocol::PeerInfo> peers;
  for (int rank = 0; rank < scenario.ranks; ++rank) peers.push_back(peer_info(rank));
  for (int rank = 0; rank < scenario.ranks; ++rank) {
    protocol::NodeOptions options = scenario.node;
    options.rank = rank;
    process(rank).set_ids.assign(workload_.sets().size(), kUnknownSet);
    process(rank).node = std::make_unique<protocol::Node>(options);
    process(rank).node->set_peers(peers);
    schedule(delay(rank, scenario.timing.think_max_us), EventKind::kUser, rank);
  }
  plan_faults();
}

Ending World::run() {
  for (Observer* observer : observers_) observer->begin(scenario_, workload_);
  Ending ending;
  const uint64_t limit = 1'000'000 + 20'000 * static_cast<uint64_t>(scenario_.ranks);
  uint64_t events = 0;
  while (!events_.empty() && !ending.ran_away) {
    const Event event = events_.top();
    events_.pop();
    now_ = event.time;
    handle(event);
    ending.ran_away = ++events > limit || now_ > kHorizonUs;
  }
  for (const Process& process : processes_) ending.ranks.push_back(process.state);
  ending.now = now_;
  for (Observer* observer : observers_) observer->end(ending);
  return ending;
}

void World::schedule(TimeUs time, EventKind kind, int rank, int peer) {
  events_.push({time, random_.next(), kind, rank, peer});
}

// A slow rank takes thirty times as long.
TimeUs World::delay(int rank, TimeUs most) {
  return random_.between(0, scenario_.is_slow(rank) ? 30 * most : most);
}

// The coordinator thread of the rank will run soon; inputs until then are handled together.
void World::wake(int rank) {
  const TimeUs time = now_ + delay(rank, scenario_.timing.wake_delay_max_us);
  Process& process = this->process(rank);
  if (time >= process.tick_at) return;
  process.tick_at = time;
  schedule(time, EventKind::kTick, rank);
}

void World::plan_faults() {
  const Faults& faults = scenario_.faults;
  if (faults.crash_rank) schedule(faults.crash_at_us, EventKind::kCrash, *faults.crash_rank);
  if (faults.second_crash_rank) {
    schedule(faults.second_crash_at_us, EventKind::kCrash, *faults.second_crash_rank);
  }
  if (faults.cut_rank) schedule(faults.cut_at_us, EventKind::kCut, *faults.cut_rank);
  if (faults.broken_rank) schedule(faults.broken_at_us, EventKind::kBreak, *faults.broken_rank);
  if (faults.early_leaver) schedule(faults.leave_at_us, EventKind::kLeave, *faults.early_leaver);
}

void World::handle(const Event& event) {
  switch (event.kind) {
    case EventKind::kTick:
      if (process(event.rank).tick_at == event.time) tick(event.rank);
      break;
    case EventKind::kArrive:
      arrive(event.peer, event.rank);
      break;
    case EventKind::kUser:
      user_runs(event.rank);
      break;
    case EventKind::kLateSubmit:
      submit_late(event.rank);
      break;
    case EventKind::kExecuted:
      executed(event.rank);
      break;
    case EventKind::kLeave:
      leave(event.rank);
      break;
    case EventKind::kClose:
      close_links(event.rank, /*lossy=*/false);
      break;
    case EventKind::kCrash:
      crash(event.rank);
      break;
    case EventKind::kCut:
      cut(event.rank);
      break;
    case EventKind::kBreak:
      break_data_plane(event.rank);
      break;
  }
}

void World::tick(int rank) {
  Process& process = this->process(rank);
  process.tick_at = protocol::kNever;
  if (process.state == RankState::kCrashed) return;
  protocol::Output output = process.node->tick(now_);
  NodeView view{process.node->applied_sequence(), process.node->state_digest(),
                process.node->stats()};
  if (tamper_.output) tamper_.output(rank, &output, &view);
  for (Observer* observer : observers_) observer->ticked(rank, output, view, now_);
  apply(rank, std::move(output));
  if (process.state != RankState::kRunning) return;
  const TimeUs deadline = process.node->next_deadline();
  if (deadline < process.tick_at) {
    process.tick_at = std::max(deadline, now_);
    schedule(process.tick_at, EventKind::kTick, rank);
  }
  if (random_.chance(kSpuriousWake)) wake(rank);
}

void World::apply(int rank, protocol::Output output) {
  Process& process = this->process(rank);
  send_frames(rank, output.frames);
  for (const protocol::SetChange& change : output.set_changes) {
    if (change.added) sets_[change.id] = change.members.to_vector();
  }
  for (const protocol::Completion& completion : output.completions) {
    learn(rank, completion);
    ticket_done(rank, completion.ticket);
  }
  for (protocol::Execution& execution : output.executions) {
    if (protocol::is_on_device(execution.response)) {
      first_on_device_.try_emplace(execution.response.process_set, place_of(execution));
    }
    data_plane_.enqueue(rank, std::move(execution));
  }
  if (output.fault) epoch_over(rank, RankState::kFaulted);
  if (output.shutdown) process.shutdown = true;
  if (output.goodbye) epoch_over(rank, RankState::kGoodbye);
  run_data_plane(rank);
  drain_if_idle(rank);
}

void World::send_frames(int rank, const std::vector<std::pair<int, wire::Frame>>& frames) {
  if (!process(rank).open) return;
  for (const auto& [to, frame] : frames) {
    wire::Frame copy;
    const wire::Frame* sent = &frame;
    if (tamper_.frame) {
      copy = frame;
      tamper_.frame(rank, to, &copy);
      sent = &copy;
    }
    wire::Bytes bytes = wire::encode(*sent);
    for (Observer* observer : observers_) observer->sent(rank, to, *sent, bytes.size(), now_);
    if (const auto due = network_.send(rank, to, std::move(bytes), now_, &random_)) {
      schedule(*due, EventKind::kArrive, to, rank);
    }
  }
}

void World::arrive(int from, int to) {
  const Network::Packet packet = network_.take(from, to);
  Process& process = this->process(to);
  if (process.state == RankState::kCrashed || !process.open) return;
  if (process.closed_peers.contains(from)) return;
  if (packet.bytes.empty()) {
    process.closed_peers.insert(from);
    process.node->peer_closed(from, "connection reset by peer", now_);
  } else {
    const Result<wire::Frame> frame = wire::decode(packet.bytes);
    KHORUS_ASSERT(frame.ok(), "a frame did not survive encoding");
    process.node->receive(from, *frame, now_);
  }
  wake(to);
}

// Who runs an execution: the members of its set, or the two of a send/recv, which the others meet
// where it is the first one on a device.
const std::vector<int>& World::participants(const protocol::Execution& execution) {
  const wire::Request& request = execution.response.tensors.front().request;
  const auto first = first_on_device_.find(execution.response.process_set);
  const bool all_meet = first != first_on_device_.end() && first->second == place_of(execution);
  if (request.kind == OpKind::kSendRecv && !all_meet)
    return pair_ = {request.root_rank, request.peer};
  const auto it = sets_.find(execution.response.process_set);
  return it != sets_.end() ? it->second : sets_[kGlobalProcessSet];
}

void World::run_data_plane(int rank) {
  if (process(rank).state != RankState::kRunning || data_plane_.idle(rank)) return;
  const std::vector<int>& ranks = participants(data_plane_.next(rank));
  if (!data_plane_.start_next(rank, ranks.size())) return;
  for (int other : ranks) {
    if (process(other).state == RankState::kCrashed) continue;
    schedule(now_ + 1 + delay(other, scenario_.timing.execution_max_us), EventKind::kExecuted,
             other);
  }
}

void World::executed(int rank) {
  Process& process = this->process(rank);
  if (process.state != RankState::kRunning) return;
  const protocol::Execution execution = data_plane_.finish(rank);
  for (Observer* observer : observers_) observer->executed(rank, execution, true, now_);
  for (uint64_t ticket : execution.tickets) ticket_done(rank, ticket);
  process.node->executions_finished(1, now_);
  wake(rank);
  run_data_plane(rank);
  drain_if_idle(rank);
}

void World::drain_if_idle(int rank) {
  Process& process = this->process(rank);
  if (!process.shutdown || process.drained || process.state != RankState::kRunning) return;
  if (!data_plane_.idle(rank)) return;
  process.drained = true;
  process.node->drained(now_);
  wake(rank);
}

// After a goodbye the process closes its connections at once, after a fault when it gets to it.
void World::epoch_over(int rank, RankState state) {
  Process& process = this->process(rank);
  if (process.state != RankState::kRunning) return;
  process.state = state;
  for (const protocol::Execution& execution : data_plane_.abort(rank)) {
    for (Observer* observer : observers_) observer->executed(rank, execution, false, now_);
    for (uint64_t ticket : execution.tickets) ticket_done(rank, ticket);
  }
  if (state == RankState::kGoodbye) {
    close_links(rank, /*lossy=*/false);
  } else {
    schedule(now_ + delay(rank, scenario_.timing.close_delay_max_us), EventKind::kClose, rank);
  }
  if (scenario_.faults.submit_after_end) schedule(now_ + 1, EventKind::kUser, rank);
}

void World::leave(int rank) {
  Process& process = this->process(rank);
  if (process.state == RankState::kCrashed) return;
  process.leave_planned = true;
  process.node->leave("the program called shutdown()", now_);
  for (Observer* observer : observers_) observer->left(rank, now_);
  wake(rank);
}

std::vector<int> World::neighbours(int rank) const {
  const protocol::Node& node = *processes_[static_cast<size_t>(rank)].node;
  std::vector<int> neighbours = node.children();
  if (node.parent() >= 0) neighbours.push_back(node.parent());
  return neighbours;
}

void World::close_links(int rank, bool lossy) {
  if (!std::exchange(process(rank).open, false)) return;
  for (int neighbour : neighbours(rank)) {
    const TimeUs notice = 1 + random_.between(0, scenario_.timing.close_delay_max_us);
    if (const auto due = network_.close(rank, neighbour, lossy, notice, now_, &random_)) {
      schedule(*due, EventKind::kArrive, neighbour, rank);
    }
  }
}

void World::crash(int rank) {
  Process& process = this->process(rank);
  if (process.state != RankState::kRunning) return;
  for (Observer* observer : observers_) observer->crashed(rank, now_);
  process.state = RankState::kCrashed;
  close_links(rank, /*lossy=*/true);
  if (!scenario_.faults.data_plane_notices) return;
  for (int other = 0; other < scenario_.ranks; ++other) {
    const TimeUs notice = delay(other, 2 * scenario_.timing.close_delay_max_us);
    schedule(now_ + notice + scenario_.faults.notice_grace_us, EventKind::kBreak, other);
  }
}

void World::cut(int rank) {
  const int parent = process(rank).node->parent();
  if (!process(rank).open || !process(parent).open) return;
  for (Observer* observer : observers_) observer->link_cut(rank, parent, now_);
  for (const auto& [from, to] : {std::pair(rank, parent), std::pair(parent, rank)}) {
    const TimeUs notice = 1 + random_.between(0, scenario_.timing.close_delay_max_us);
    if (const auto due = network_.close(from, to, /*lossy=*/true, notice, now_, &random_)) {
      schedule(*due, EventKind::kArrive, to, from);
    }
  }
}

// Only a running collective can fail.
void World::break_data_plane(int rank) {
  Process& process = this->process(rank);
  if (process.state != RankState::kRunning || data_plane_.idle(rank)) return;
  const Status status(StatusCode::kAborted, "the connection of a collective was reset");
  for (Observer* observer : observers_) observer->data_plane_failed(rank, status, now_);
  process.node->data_plane_failed(status, now_);
  wake(rank);
}

}  // namespace khorus::sim
