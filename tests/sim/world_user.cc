// The user threads of a World: they submit the workload, wait, and leave. See world.h.
#include <algorithm>
#include <utility>

#include "core/protocol/tensor_key.h"
#include "tests/sim/world.h"

namespace khorus::sim {
namespace {

// What a rank may not have in flight twice.
std::string key_of(const wire::Request& request, int set) {
  std::string key = request.name + "@" + std::to_string(set);
  if (request.kind == OpKind::kSendRecv) {
    key += "@" + std::to_string(std::min(request.root_rank, request.peer)) + "-" +
           std::to_string(std::max(request.root_rank, request.peer));
  }
  return key;
}

}  // namespace

// Submits one burst, then thinks; or waits until a completion lets it go on.
void World::user_runs(int rank) {
  Process& process = this->process(rank);
  User& user = process.user;
  if (process.state == RankState::kCrashed || user.done) return;
  const bool over = process.state != RankState::kRunning;
  if (over && (!scenario_.faults.submit_after_end || process.after_end > 3)) return;
  const int burst = scenario_.load.burst;
  for (int i = 0; burst == 0 || i < burst; ++i) {
    if (user.next == user.order.size()) {
      if (!begin_step(rank)) return;
      if (user.order.empty() || burst == 0) break;
    }
    const size_t unit = user.order[user.next];
    if (is_void(rank, unit)) {
      ++user.next;
      if (burst == 0 && user.next == user.order.size()) break;
      continue;
    }
    if (blocked(rank, unit)) {
      user.waiting = true;
      return;
    }
    Origin origin{user.step, unit, false, over, false};
    submit(rank, unit, origin);
    if (process.join_ticket != 0 && !over) submit_joined(rank, origin);
    if (workload_.deviation(rank, user.step, unit) == Deviation::kDuplicate) {
      origin.duplicate = true;
      submit(rank, unit, origin);
    }
    ++user.next;
    if (over && ++process.after_end > 3) return;
    if (burst == 0 && user.next == user.order.size()) break;
  }
  schedule(now_ + delay(rank, scenario_.timing.think_max_us), EventKind::kUser, rank);
}

// False when the user must wait or has nothing left to do.
bool World::begin_step(int rank) {
  Process& process = this->process(rank);
  User& user = process.user;
  const bool last = user.step + 1 >= workload_.steps();
  const bool end = workload_.ends_together() && user.step + 2 == workload_.steps();
  const bool joined = process.join_ticket != 0;
  if (!process.in_flight.empty() && (joined || end || last || scenario_.load.wait_each_step)) {
    user.waiting = true;
    return false;
  }
  if (last) {
    user_finished(rank);
    return false;
  }
  ++user.step;
  user.next = 0;
  user.order = workload_.order(rank, user.step);
  return true;
}

// A name that is in flight may not be submitted again, nor anything of a set without an id, nor a
// join before everything else.
bool World::blocked(int rank, size_t unit) {
  const Process& process = this->process(rank);
  const Unit& planned = workload_.step(process.user.step).units[unit];
  const OpKind kind = planned.members.front().kind;
  const int set = kind == OpKind::kRemoveProcessSet ? planned.changes : planned.set;
  if (set > 0 && process.set_ids[static_cast<size_t>(set - 1)] == kUnknownSet) return true;
  if (kind == OpKind::kJoin && !process.late.empty()) return true;
  for (const wire::Request& member : planned.members) {
    if (process.names.contains(key_of(member, planned.set))) return true;
  }
  return false;
}

// There is no such set: nothing to submit.
bool World::is_void(int rank, size_t unit) {
  const Process& process = this->process(rank);
  const Unit& planned = workload_.step(process.user.step).units[unit];
  const bool removes = planned.members.front().kind == OpKind::kRemoveProcessSet;
  const int set = removes ? planned.changes : planned.set;
  return set > 0 && process.set_ids[static_cast<size_t>(set - 1)] == kNoSet;
}

// A program that goes on although its rank has joined is refused.
void World::submit_joined(int rank, Origin origin) {
  if (!random_.chance(0.2)) return;
  origin.joined = true;
  protocol::Submission submission;
  submission.ticket = process(rank).next_ticket++;
  submission.request.name = "joined";
  process(rank).in_flight.emplace(submission.ticket, std::string());
  call_submit(rank, origin, {std::move(submission)});
}

// What the program is told of its process sets and joins.
void World::learn(int rank, const protocol::Completion& completion) {
  Process& process = this->process(rank);
  if (completion.ticket == process.join_ticket) process.join_ticket = 0;
  const auto it = process.set_adding.find(completion.ticket);
  if (it == process.set_adding.end()) return;
  process.set_ids[static_cast<size_t>(it->second - 1)] =
      completion.status.ok() ? static_cast<ProcessSetId>(completion.value) : kNoSet;
}

void World::submit(int rank, size_t unit, const Origin& origin) {
  Process& process = this->process(rank);
  std::vector<protocol::Submission> submissions = workload_.submissions(rank, origin.step, unit);
  const Unit& planned = workload_.step(origin.step).units[unit];
  const auto id_of = [&](int set) { return process.set_ids[static_cast<size_t>(set - 1)]; };
  for (protocol::Submission& submission : submissions) {
    wire::Request& request = submission.request;
    submission.ticket = process.next_ticket++;
    const std::string key = key_of(request, planned.set);
    process.in_flight.emplace(submission.ticket, origin.duplicate ? std::string() : key);
    process.names.insert(key);
    if (planned.set > 0) request.process_set = id_of(planned.set);
    if (request.kind == OpKind::kRemoveProcessSet) request.shape = {id_of(planned.changes)};
    if (request.kind == OpKind::kJoin) process.join_ticket = submission.ticket;
    if (request.kind == OpKind::kAddProcessSet && !origin.duplicate) {
      process.set_adding.emplace(submission.ticket, planned.changes);
    }
  }
  const bool scattered = workload_.deviation(rank, origin.step, unit) == Deviation::kScattered;
  if (scattered) random_.shuffle(&submissions);
  // Members of a group come in one call, anything else in one call each.
  std::vector<std::vector<protocol::Submission>> calls;
  for (protocol::Submission& submission : submissions) {
    if (scattered && !calls.empty()) {
      process.late.emplace_back(origin, std::move(submission));
      schedule(now_ + delay(rank, 10 * scenario_.timing.think_max_us), EventKind::kLateSubmit,
               rank);
      continue;
    }
    if (calls.empty() || submission.request.group.empty()) calls.emplace_back();
    calls.back().push_back(std::move(submission));
  }
  for (std::vector<protocol::Submission>& call : calls) {
    call_submit(rank, origin, std::move(call));
  }
}

void World::call_submit(int rank, const Origin& origin, std::vector<protocol::Submission> call) {
  for (Observer* observer : observers_) observer->submitted(rank, origin, call, now_);
  process(rank).node->submit(std::move(call), now_);
  wake(rank);
}

void World::submit_late(int rank) {
  Process& process = this->process(rank);
  if (process.state == RankState::kCrashed) return;
  auto [origin, submission] = std::move(process.late.front());
  process.late.pop_front();
  origin.after_end = process.state != RankState::kRunning;
  call_submit(rank, origin, {std::move(submission)});
}

void World::ticket_done(int rank, uint64_t ticket) {
  Process& process = this->process(rank);
  const auto it = process.in_flight.find(ticket);
  if (it == process.in_flight.end()) return;  // the exactly-once checker complains
  process.names.erase(it->second);
  process.in_flight.erase(it);
  if (std::exchange(process.user.waiting, false)) {
    schedule(now_ + delay(rank, scenario_.timing.think_max_us), EventKind::kUser, rank);
  }
}

void World::user_finished(int rank) {
  Process& process = this->process(rank);
  process.user.done = true;
  if (std::exchange(process.leave_planned, true)) return;
  schedule(now_ + delay(rank, scenario_.timing.think_max_us), EventKind::kLeave, rank);
}

}  // namespace khorus::sim
