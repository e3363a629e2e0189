// The parts of a Workload: process sets, transfers between two ranks, joins. See workload.h.
#include <algorithm>
#include <numeric>

#include "core/protocol/tensor_key.h"
#include "tests/sim/workload.h"

namespace khorus::sim {
namespace {

constexpr uint64_t kSkipStream = 21;
constexpr uint64_t kDeviceStream = 22;

const std::vector<OpKind> kSetKinds = {OpKind::kAllreduce, OpKind::kAllreduce, OpKind::kAllreduce,
                                       OpKind::kAllgather, OpKind::kBroadcast, OpKind::kBarrier,
                                       OpKind::kExchange,  OpKind::kAlltoall};

std::vector<int> draw_members(Random* random, int ranks) {
  std::vector<int> members(static_cast<size_t>(ranks));
  std::iota(members.begin(), members.end(), 0);
  random->shuffle(&members);
  members.resize(static_cast<size_t>(random->between(1, ranks)));
  std::sort(members.begin(), members.end());
  return members;
}

bool active(const PlannedSet& set, int step) {
  return set.add_step <= step && (set.remove_step < 0 || step <= set.remove_step);
}

Unit change_of(const PlannedSet& set, int number, OpKind kind) {
  Unit unit;
  unit.changes = number;
  wire::Request& request = unit.members.emplace_back();
  request.kind = kind;
  request.name = (kind == OpKind::kAddProcessSet ? "add" : "remove") + std::to_string(number);
  if (kind == OpKind::kAddProcessSet) request.members = wire::RankSet::of(set.members);
  return unit;
}

Unit join_unit() {
  Unit unit;
  wire::Request& request = unit.members.emplace_back();
  request.kind = OpKind::kJoin;
  request.name = protocol::kJoinName;
  return unit;
}

// From a stream of its own: the rest of the seed stays what it was.
void put_some_on_devices(Random random, std::vector<Unit>* units) {
  for (Unit& unit : *units) {
    if (!random.chance(0.6)) continue;
    for (wire::Request& request : unit.members) {
      if (protocol::runs_on_data_plane(request.kind)) request.device = DeviceKind::kCuda;
    }
  }
}

// The checker's own idea of what zeros of joined ranks would spoil, not the validator's.
bool needs(const wire::Request& request, const std::vector<int>& absent) {
  switch (request.kind) {
    case OpKind::kAllreduce:
    case OpKind::kReducescatter:
      return request.op != ReduceOp::kSum && request.op != ReduceOp::kAverage;
    case OpKind::kBroadcast:
      return std::binary_search(absent.begin(), absent.end(), request.root_rank);
    case OpKind::kSendRecv:
    case OpKind::kAddProcessSet:
    case OpKind::kRemoveProcessSet:
      return true;
    default:
      return false;
  }
}

}  // namespace

void Workload::plan_parts(Random random) {
  plan_sets(&random);
  const std::vector<Unit> units = draw_part_units(&random);
  for (int i = 0; i < steps(); ++i) add_parts(&random, units, i);
  if (scenario_.steady) return;
  // Who takes no part in what others still wait for would leave, and end it.
  wire::Request end;
  end.kind = OpKind::kBarrier;
  end.name = "end";
  steps_.emplace_back().units.emplace_back().members.push_back(std::move(end));
  ends_together_ = true;
}

void Workload::plan_sets(Random* random) {
  for (int i = 0; i < scenario_.parts.sets; ++i) {
    PlannedSet set;
    set.members = draw_members(random, scenario_.ranks);
    if (scenario_.parts.sets_change) {
      if (random->chance(0.5)) set.add_step = static_cast<int>(random->between(0, steps() - 1));
      if (random->chance(0.7)) {
        set.remove_step = static_cast<int>(random->between(set.add_step, steps() - 1));
      }
    }
    sets_.push_back(std::move(set));
  }
}

std::vector<Unit> Workload::draw_part_units(Random* random) const {
  std::vector<Unit> units;
  for (int set = 1; set <= scenario_.parts.sets; ++set) {
    const int64_t count = random->between(1, 4);
    for (int64_t i = 0; i < count; ++i) {
      units.push_back(draw_set_unit(random, set, static_cast<size_t>(i)));
    }
  }
  for (int i = 0; i < scenario_.parts.transfers; ++i) {
    units.push_back(draw_transfer(random, static_cast<size_t>(i)));
  }
  for (int i = 0; i < scenario_.parts.exchanges_of_rows; ++i) {
    units.push_back(draw_rows(random, static_cast<size_t>(i)));
  }
  if (scenario_.parts.devices) {
    put_some_on_devices(Random(scenario_.seed).derive(kDeviceStream), &units);
  }
  return units;
}

Unit Workload::draw_set_unit(Random* random, int set, size_t index) const {
  Unit unit;
  unit.set = set;
  unit.ranks = sets_[static_cast<size_t>(set - 1)].members;
  const OpKind kind = random->pick(kSetKinds);
  const bool group = protocol::runs_on_data_plane(kind) && random->chance(0.25);
  const int64_t members = group ? random->between(1, scenario_.load.max_group) : 1;
  unit.ragged = random->chance(0.5);
  const std::string number = std::to_string(index);
  for (int64_t i = 0; i < members; ++i) {
    wire::Request request = draw_request(random, kind);
    if (kind == OpKind::kBroadcast) request.root_rank = random->pick(unit.ranks);
    if (kind == OpKind::kAlltoall && request.shape.empty()) request.shape = {1};
    // Other sets and all ranks may have the same name.
    request.name = scenario_.parts.shared_names ? "unit" + number
                                                : "set" + std::to_string(set) + ".unit" + number;
    if (members > 1) request.name += "." + std::to_string(i);
    if (group) {
      request.group = "group" + number;
      request.group_size = static_cast<uint32_t>(members);
    }
    unit.members.push_back(std::move(request));
  }
  return unit;
}

Unit Workload::draw_transfer(Random* random, size_t index) const {
  Unit unit;
  std::vector<int> among(static_cast<size_t>(scenario_.ranks));
  std::iota(among.begin(), among.end(), 0);
  const auto set = random->below(sets_.size() + 2);
  if (set >= 1 && set <= sets_.size() && sets_[set - 1].members.size() > 1) {
    unit.set = static_cast<int>(set);
    among = sets_[set - 1].members;
  }
  random->shuffle(&among);
  wire::Request request = draw_request(random, OpKind::kSendRecv);
  // A transfer is known by its two ranks too: what else has its name is another operation.
  request.name = (scenario_.parts.shared_names ? "unit" : "move") + std::to_string(index);
  request.root_rank = among[0];
  request.peer = among[1];
  unit.ranks = {std::min(among[0], among[1]), std::max(among[0], among[1])};
  unit.members.push_back(std::move(request));
  return unit;
}

Unit Workload::draw_rows(Random* random, size_t index) const {
  Unit unit;
  const OpKind kind = random->chance(0.5) ? OpKind::kAlltoall : OpKind::kReducescatter;
  wire::Request request = draw_request(random, kind);
  if (kind == OpKind::kReducescatter && random->chance(0.3)) request.op = ReduceOp::kMax;
  request.name = "rows" + std::to_string(index);
  unit.ragged = random->chance(0.5);
  unit.members.push_back(std::move(request));
  return unit;
}

// Behind the units of the plain workload, whose places do not change.
void Workload::add_parts(Random* random, const std::vector<Unit>& units, int index) {
  Step& step = steps_[static_cast<size_t>(index)];
  for (const Unit& unit : units) {
    if (unit.set > 0 && !active(sets_[static_cast<size_t>(unit.set - 1)], index)) continue;
    if (scenario_.load.optional_units && random->chance(0.3)) continue;
    step.units.push_back(unit);
  }
  int number = 0;
  for (const PlannedSet& set : sets_) {
    ++number;
    if (set.add_step == index) {
      step.units.push_back(change_of(set, number, OpKind::kAddProcessSet));
    }
    if (set.remove_step == index) {
      step.units.push_back(change_of(set, number, OpKind::kRemoveProcessSet));
    }
  }
  const bool last = index + 1 == steps();
  step.joins = scenario_.parts.joins && random->chance(last ? 0.8 : 0.4);
  if (step.joins) step.units.push_back(join_unit());
}

std::vector<int> Workload::ranks_of(const Unit& unit) const {
  if (!unit.ranks.empty()) return unit.ranks;
  std::vector<int> all(static_cast<size_t>(scenario_.ranks));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

// Uneven inputs: before a join every rank does as much as it likes of what can be left out.
bool Workload::skips(int rank, int step, size_t unit) const {
  const Step& planned = this->step(step);
  const OpKind kind = planned.units[unit].members.front().kind;
  if (!planned.joins || kind == OpKind::kExchange || kind >= OpKind::kJoin) return false;
  const Random random(scenario_.seed);
  static const std::vector<double> kShares = {0, 0.3, 0.7, 1};
  const auto one = static_cast<uint64_t>(rank);
  const auto when = static_cast<uint64_t>(step) * 1000;
  Random all = random.derive(kSkipStream, one, when);
  return random.derive(kSkipStream, one, when + 1 + unit).chance(all.pick(kShares));
}

bool Workload::takes_part(int rank, int step, size_t unit) const {
  const std::vector<int>& ranks = this->step(step).units[unit].ranks;
  if (!ranks.empty() && !std::binary_search(ranks.begin(), ranks.end(), rank)) return false;
  return deviation(rank, step, unit) != Deviation::kMissing && !skips(rank, step, unit);
}

StatusCode Workload::planned(int step, size_t unit) const {
  const Step& planned = this->step(step);
  const auto it = planned.deviations.find(unit);
  const bool deviates = it != planned.deviations.end() && it->second.kind < Deviation::kScattered;
  if (!planned.joins) return deviates ? StatusCode::kMismatch : StatusCode::kOk;
  std::vector<int> there;
  std::vector<int> absent;
  size_t deviating = 0;
  for (int rank : ranks_of(planned.units[unit])) {
    const bool here = takes_part(rank, step, unit);
    (here ? there : absent).push_back(rank);
    if (here && deviates && deviation(rank, step, unit) == it->second.kind) ++deviating;
  }
  if (deviating > 0 && deviating < there.size()) return StatusCode::kMismatch;
  return spoiled_by_absence(step, unit, there, absent) ? StatusCode::kMismatch : StatusCode::kOk;
}

bool Workload::spoiled_by_absence(int step, size_t unit, const std::vector<int>& there,
                                  const std::vector<int>& absent) const {
  if (absent.empty() || there.empty()) return false;
  // One group or one operation: what spoils a member spoils all.
  const auto submissions = this->submissions(there.front(), step, unit);
  return std::any_of(submissions.begin(), submissions.end(),
                     [&](const protocol::Submission& s) { return needs(s.request, absent); });
}

}  // namespace khorus::sim
