// The user threads of a World: they submit the workload, wait, and leave. See world.h.
#include <utility>

#include "tests/sim/world.h"

namespace khorus::sim {

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
    if (blocked(rank, unit)) {
      user.waiting = true;
      return;
    }
    Origin origin{user.step, unit, false, over};
    submit(rank, unit, origin);
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
  if (!process.in_flight.empty() && (last || scenario_.load.wait_each_step)) {
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

// A name that is in flight may not be submitted again.
bool World::blocked(int rank, size_t unit) {
  const Process& process = this->process(rank);
  for (const wire::Request& member : workload_.step(process.user.step).units[unit].members) {
    if (process.names.contains(member.name)) return true;
  }
  return false;
}

void World::submit(int rank, size_t unit, const Origin& origin) {
  Process& process = this->process(rank);
  std::vector<protocol::Submission> submissions = workload_.submissions(rank, origin.step, unit);
  for (protocol::Submission& submission : submissions) {
    submission.ticket = process.next_ticket++;
    process.in_flight.emplace(submission.ticket,
                              origin.duplicate ? std::string() : submission.request.name);
    process.names.insert(submission.request.name);
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
