// See workload.h.
#include "tests/sim/workload.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "core/protocol/tensor_key.h"

namespace khorus::sim {
namespace {

// Labels of the independent random streams.
enum Stream : uint64_t { kModel = 11, kSteps, kDeviations, kOrder, kExtent, kPayload, kParts };

DataType draw_dtype(Random* random) {
  return random->chance(0.7) ? DataType::kFloat32
                             : static_cast<DataType>(random->below(kDataTypeCount));
}

Shape draw_shape(Random* random, const Load& load) {
  Shape shape;
  const int64_t dimensions = random->between(0, 3);
  for (int64_t i = 0; i < dimensions; ++i) shape.push_back(random->between(0, 64));
  if (random->chance(0.3)) shape = {random->between(1, 300'000)};
  if (load.huge_tensors && random->chance(0.1)) shape = {(int64_t{1} << 31) + 8};
  return shape;
}

std::vector<OpKind> kinds_of(const Load& load) {
  std::vector<OpKind> kinds(3, OpKind::kAllreduce);
  if (load.allgathers) kinds.push_back(OpKind::kAllgather);
  if (load.broadcasts) kinds.push_back(OpKind::kBroadcast);
  if (load.barriers) kinds.push_back(OpKind::kBarrier);
  if (load.exchanges) kinds.push_back(OpKind::kExchange);
  return kinds;
}

// Which deviations make sense for a unit.
std::vector<Deviation> possible(const Faults& faults, const Unit& unit, bool joins) {
  std::vector<Deviation> kinds;
  const OpKind kind = unit.members.front().kind;
  const bool data = protocol::runs_on_data_plane(kind);
  if (kind == OpKind::kJoin) return kinds;
  // A rank that never adds a set would wait for it alone, where no one sees it.
  if (faults.missing && kind != OpKind::kAddProcessSet) kinds.push_back(Deviation::kMissing);
  if (faults.missing && unit.members.size() > 1 && !joins) kinds.push_back(Deviation::kScattered);
  if (faults.duplicates) kinds.push_back(Deviation::kDuplicate);
  if (faults.mismatches && kind == OpKind::kAddProcessSet) kinds.push_back(Deviation::kRanks);
  if (faults.mismatches && data && joins) {
    // Which ranks meet is chance: only what one meeting decides.
    kinds.insert(kinds.end(), {Deviation::kDtype, Deviation::kShape, Deviation::kDevice});
  } else if (faults.mismatches && data) {
    kinds.insert(kinds.end(),
                 {Deviation::kDtype, Deviation::kShape, Deviation::kGroup, Deviation::kDevice});
    if (kind == OpKind::kReducescatter) kinds.push_back(Deviation::kOp);
    if (kind == OpKind::kAllreduce) {
      kinds.insert(kinds.end(), {Deviation::kOp, Deviation::kScale, Deviation::kKind});
    }
    if (kind == OpKind::kBroadcast) kinds.push_back(Deviation::kRoot);
    if (kind == OpKind::kSendRecv) kinds.push_back(Deviation::kDirection);
    if (unit.members.size() > 1) {
      kinds.insert(kinds.end(), {Deviation::kUngrouped, Deviation::kMember});
    }
  }
  return kinds;
}

void apply(Deviation deviation, int ranks, wire::Request* request) {
  switch (deviation) {
    case Deviation::kDtype:
      request->dtype = request->dtype == DataType::kInt64 ? DataType::kFloat16 : DataType::kInt64;
      break;
    case Deviation::kShape:
      request->shape.push_back(3);
      break;
    case Deviation::kOp:
      request->op = request->op == ReduceOp::kMax ? ReduceOp::kMin : ReduceOp::kMax;
      break;
    case Deviation::kScale:
      request->prescale = 0.25;
      break;
    case Deviation::kRoot:
      request->root_rank = (request->root_rank + 1) % ranks;
      break;
    case Deviation::kKind:
      request->kind = OpKind::kBroadcast;
      request->op = ReduceOp::kSum;
      request->postscale = 1.0;
      break;
    case Deviation::kGroup:
      if (request->group.empty()) {
        const bool transfer = request->kind == OpKind::kSendRecv;  // its name may be another's too
        request->group = (transfer ? "lonely move." : "lonely.") + request->name;
        request->group_size = 1;
      } else {
        request->group += ".other";
      }
      break;
    case Deviation::kDevice:
      request->device = request->device == DeviceKind::kCpu ? DeviceKind::kCuda : DeviceKind::kCpu;
      break;
    case Deviation::kUngrouped:
    case Deviation::kScattered:
      request->group.clear();
      request->group_size = 0;
      break;
    case Deviation::kMember:
      request->name += ".renamed";
      break;
    case Deviation::kRanks:
      request->members = request->members == wire::RankSet::single(0) ? wire::RankSet::range(0, 1)
                                                                      : wire::RankSet::single(0);
      break;
    case Deviation::kDirection:
      std::swap(request->root_rank, request->peer);
      break;
    case Deviation::kNone:
    case Deviation::kMissing:
    case Deviation::kDuplicate:
      break;
  }
}

}  // namespace

const char* to_string(Deviation deviation) {
  static constexpr std::array<const char*, 16> kNames = {
      "none",   "dtype",     "shape",  "op",    "scale",     "root",      "kind",    "group",
      "device", "ungrouped", "member", "ranks", "direction", "scattered", "missing", "duplicate"};
  return kNames[static_cast<size_t>(deviation)];
}

Workload::Workload(const Scenario& scenario) : scenario_(scenario) {
  const Random random(scenario.seed);
  plan_model(random.derive(kModel));
  plan_steps(random.derive(kSteps));
  if (scenario.parts.any()) plan_parts(random.derive(kParts));
  plan_deviations(random.derive(kDeviations));
}

wire::Request Workload::draw_request(Random* random, OpKind kind) const {
  const Scenario& scenario = scenario_;
  wire::Request request;
  request.kind = kind;
  if (kind == OpKind::kBarrier || kind == OpKind::kExchange) return request;
  request.dtype = draw_dtype(random);
  request.shape = draw_shape(random, scenario.load);
  if (kind == OpKind::kAllreduce) {
    request.op = static_cast<ReduceOp>(random->chance(0.7) ? 1 : random->below(kReduceOpCount));
    if (random->chance(0.1)) request.postscale = 0.5;
  } else if (kind == OpKind::kBroadcast) {
    request.root_rank =
        random->chance(0.7)
            ? 0
            : static_cast<int32_t>(random->below(static_cast<uint64_t>(scenario.ranks)));
  } else if (request.shape.empty()) {
    request.shape = {1};
  }
  return request;
}

Unit Workload::draw_unit(Random* random, size_t index) const {
  const Load& load = scenario_.load;
  Unit unit;
  const OpKind kind = random->pick(kinds_of(load));
  const bool data = kind != OpKind::kBarrier && kind != OpKind::kExchange;
  const bool group = load.groups && data && random->chance(0.3);
  const int64_t members = group ? random->between(1, load.max_group) : 1;
  unit.ragged = kind == OpKind::kAllgather && random->chance(0.7);
  for (int64_t i = 0; i < members; ++i) {
    wire::Request request = draw_request(random, kind);
    request.name = "unit" + std::to_string(index);
    if (members > 1) request.name += "." + std::to_string(i);
    if (load.long_names) request.name.resize(wire::Limits::kMaxNameBytes - 16, 'n');
    if (load.long_names) request.name += std::to_string(index * 100 + static_cast<size_t>(i));
    if (group) {
      request.group = "group" + std::to_string(index);
      request.group_size = static_cast<uint32_t>(members);
    }
    unit.members.push_back(std::move(request));
  }
  return unit;
}

void Workload::plan_model(Random random) {
  for (int i = 0; i < scenario_.load.units; ++i) {
    model_.push_back(draw_unit(&random, static_cast<size_t>(i)));
  }
}

void Workload::plan_steps(Random random) {
  for (int i = 0; i < scenario_.load.steps; ++i) {
    if (scenario_.load.shapes_change) {
      for (Unit& unit : model_) {
        if (!random.chance(0.1)) continue;
        for (wire::Request& member : unit.members) member.shape.push_back(random.between(1, 4));
        if (unit.members.front().shape.size() > 6) {
          for (wire::Request& member : unit.members) member.shape = {7};
        }
      }
    }
    Step step;
    for (const Unit& unit : model_) {
      if (scenario_.load.optional_units && random.chance(0.3)) continue;
      step.units.push_back(unit);
      if (unit.members.front().kind >= OpKind::kBarrier) {
        for (wire::Request& member : step.units.back().members) member.shape.clear();
      }
    }
    steps_.push_back(std::move(step));
  }
}

void Workload::plan_deviations(Random random) {
  const Faults& faults = scenario_.faults;
  if (!faults.mismatches && !faults.duplicates && !faults.missing) return;
  for (Step& step : steps_) {
    for (size_t i = 0; i < step.units.size(); ++i) {
      if (!random.chance(0.15)) continue;
      const std::vector<Deviation> kinds = possible(faults, step.units[i], step.joins);
      if (kinds.empty()) continue;
      PlannedDeviation planned{random.pick(kinds), {}};
      std::vector<int> ranks = ranks_of(step.units[i]);
      if (ranks.size() == 1 && planned.kind < Deviation::kScattered) continue;
      random.shuffle(&ranks);
      const int64_t most =
          random.chance(0.5) ? 1 : std::max<int64_t>(1, static_cast<int64_t>(ranks.size()) - 1);
      ranks.resize(static_cast<size_t>(random.between(1, most)));
      std::sort(ranks.begin(), ranks.end());
      planned.ranks = std::move(ranks);
      step.deviations.emplace(i, std::move(planned));
    }
  }
}

Deviation Workload::deviation(int rank, int step, size_t unit) const {
  const auto& deviations = this->step(step).deviations;
  const auto it = deviations.find(unit);
  if (it == deviations.end()) return Deviation::kNone;
  const std::vector<int>& ranks = it->second.ranks;
  return std::binary_search(ranks.begin(), ranks.end(), rank) ? it->second.kind : Deviation::kNone;
}

std::vector<size_t> Workload::order(int rank, int step) const {
  std::vector<size_t> order;
  std::vector<size_t> first;  // what others wait for
  std::vector<size_t> last;   // after which a rank submits nothing
  for (size_t i = 0; i < this->step(step).units.size(); ++i) {
    if (!takes_part(rank, step, i)) continue;
    const OpKind kind = this->step(step).units[i].members.front().kind;
    (kind == OpKind::kAddProcessSet ? first : kind == OpKind::kJoin ? last : order).push_back(i);
  }
  if (scenario_.load.random_order) {
    Random random = Random(scenario_.seed)
                        .derive(kOrder, static_cast<uint64_t>(rank), static_cast<uint64_t>(step));
    random.shuffle(&order);
  }
  order.insert(order.begin(), first.begin(), first.end());
  order.insert(order.end(), last.begin(), last.end());
  return order;
}

std::vector<protocol::Submission> Workload::submissions(int rank, int step, size_t unit) const {
  const Unit& planned = this->step(step).units[unit];
  const Deviation deviation = this->deviation(rank, step, unit);
  std::vector<protocol::Submission> submissions;
  for (size_t i = 0; i < planned.members.size(); ++i) {
    protocol::Submission submission;
    submission.request = planned.members[i];
    wire::Request& request = submission.request;
    // What concerns the group concerns all members, the rest only the last.
    const bool whole = deviation == Deviation::kGroup || deviation == Deviation::kUngrouped ||
                       deviation == Deviation::kScattered;
    if (whole || i + 1 == planned.members.size()) {
      apply(deviation, scenario_.ranks, &request);
    }
    const uint64_t when = scenario_.load.ragged_changes ? static_cast<uint64_t>(step) : 0;
    const bool rows = request.kind == OpKind::kAllgather || request.kind == OpKind::kAlltoall;
    if (planned.ragged && rows) {
      Random random =
          Random(scenario_.seed)
              .derive(kExtent, static_cast<uint64_t>(rank), when * 1000 + unit * 10 + i);
      request.shape[0] = random.between(0, 9);
    }
    if (request.kind == OpKind::kExchange) {
      Random random =
          Random(scenario_.seed)
              .derive(kPayload, static_cast<uint64_t>(rank), static_cast<uint64_t>(step));
      submission.payload.resize(random.below(40));
      for (std::byte& byte : submission.payload) byte = static_cast<std::byte>(random.next());
    }
    submissions.push_back(std::move(submission));
  }
  return submissions;
}

size_t Workload::tensors_per_step() const {
  size_t most = 0;
  for (const Step& step : steps_) {
    size_t tensors = 0;
    for (const Unit& unit : step.units) tensors += unit.members.size();
    most = std::max(most, tensors);
  }
  return most;
}

}  // namespace khorus::sim
