// See scenario.h.
#include "tests/sim/scenario.h"

#include <algorithm>
#include <sstream>

#include "core/protocol/topology.h"
#include "tests/sim/random.h"

namespace khorus::sim {
namespace {

constexpr TimeUs kSlowFactor = 30;

// Mostly small worlds, some large ones; sizes around powers of the fan-in are not special-cased,
// chance finds them.
int draw_ranks(Random* random, const ScenarioLimits& limits) {
  const uint64_t die = random->below(1000);
  int64_t ranks = 0;
  if (die < 800) {
    ranks = random->between(2, 9);
  } else if (die < 960) {
    ranks = random->between(10, 40);
  } else if (die < 997) {
    ranks = random->between(41, 150);
  } else if (die < 999) {
    ranks = random->between(151, 400);
  } else {
    ranks = random->between(401, 1024);
  }
  return static_cast<int>(std::clamp<int64_t>(ranks, limits.min_ranks, limits.max_ranks));
}

void draw_node(Random* random, int ranks, protocol::NodeOptions* node) {
  node->size = ranks;
  node->epoch = random->between(1, 9);
  node->fan_in =
      static_cast<int>(random->chance(0.5) ? random->between(2, 3) : random->between(2, 16));
  static const std::vector<int64_t> kThresholds = {0, 1, 4096, 65'536, 1 << 20, 64 << 20};
  node->fusion_threshold_bytes = random->pick(kThresholds);
  static const std::vector<TimeUs> kWindows = {0, 50, 1'000, 5'000};
  node->flush_window_us = random->pick(kWindows);
  node->max_in_flight = static_cast<int>(random->between(1, 4));
  static const std::vector<size_t> kCapacities = {0, 1, 2, 5, 17, 4096};
  node->cache_capacity = random->chance(0.4) ? 4096 : random->pick(kCapacities);
  node->stall_warning_us = 3'600'000'000;
  if (random->chance(0.1)) node->stall_warning_us = random->between(2'000, 20'000);
  if (random->chance(0.1)) node->stall_warning_us = 0;
}

void draw_timing(Random* random, int ranks, Timing* timing) {
  static const std::vector<TimeUs> kDelays = {1, 20, 100, 1'000, 20'000};
  timing->link_delay_max_us = random->pick(kDelays);
  timing->wake_delay_max_us = random->pick(kDelays) / 10;
  timing->execution_max_us = random->pick(kDelays);
  timing->think_max_us = random->pick(kDelays);
  timing->close_delay_max_us = random->pick(kDelays) * 2;
  if (!random->chance(0.3)) return;
  const int64_t slow = random->between(1, std::max(1, ranks / 8));
  for (int64_t i = 0; i < slow; ++i) {
    timing->slow_ranks.push_back(static_cast<int>(random->below(static_cast<uint64_t>(ranks))));
  }
  std::sort(timing->slow_ranks.begin(), timing->slow_ranks.end());
}

void draw_load(Random* random, int ranks, Load* load) {
  const int budget = std::max(2, 600 / ranks);  // submissions per rank
  load->steps = static_cast<int>(random->between(1, std::clamp(budget / 2, 1, 12)));
  load->units = static_cast<int>(random->between(1, std::clamp(budget / load->steps, 1, 30)));
  load->max_group = static_cast<int>(random->between(2, 5));
  load->random_order = random->chance(0.7);
  load->wait_each_step = random->chance(0.7);
  load->burst = random->chance(0.3) ? 0 : static_cast<int>(random->between(1, 4));
  load->allgathers = random->chance(0.6);
  load->broadcasts = random->chance(0.6);
  load->barriers = random->chance(0.4);
  load->exchanges = random->chance(0.4);
  load->groups = random->chance(0.5);
  load->ragged_changes = random->chance(0.3);
  load->shapes_change = random->chance(0.3);
  load->optional_units = random->chance(0.3);
  load->long_names = random->chance(0.05);
  load->huge_tensors = random->chance(0.1);
}

// Nothing changes from step to step: the cache must carry everything.
void make_steady(Load* load, protocol::NodeOptions* node) {
  load->steps = std::max(load->steps, 4);
  load->wait_each_step = true;
  load->burst = 0;
  load->barriers = load->exchanges = false;
  load->ragged_changes = load->shapes_change = load->optional_units = false;
  node->cache_capacity = 4096;
  node->stall_warning_us = 3'600'000'000;
}

int any_rank(Random* random, int ranks) {
  return static_cast<int>(random->below(static_cast<uint64_t>(ranks)));
}

void draw_deaths(Random* random, int ranks, TimeUs span, Faults* faults) {
  if (random->chance(0.25)) {
    faults->crash_rank = any_rank(random, ranks);
    faults->crash_at_us = random->between(0, span);
    faults->data_plane_notices = random->chance(0.5);
    if (random->chance(0.2)) {
      faults->second_crash_rank = any_rank(random, ranks);
      faults->second_crash_at_us = random->between(0, span);
    }
  } else if (random->chance(0.06)) {
    faults->cut_rank = static_cast<int>(random->between(1, ranks - 1));
    faults->cut_at_us = random->between(0, span);
  } else if (random->chance(0.06)) {
    faults->broken_rank = any_rank(random, ranks);
    faults->broken_at_us = random->between(0, span);
  }
}

void draw_faults(Random* random, Scenario* scenario) {
  Faults& faults = scenario->faults;
  const Timing& timing = scenario->timing;
  const TimeUs step = timing.think_max_us * scenario->load.units + timing.execution_max_us * 4 +
                      scenario->hop_max_us() * 4 * (scenario->depth() + 1);
  const TimeUs span = step * scenario->load.steps;
  faults.mismatches = random->chance(0.3);
  faults.duplicates = random->chance(0.2);
  faults.submit_after_end = random->chance(0.3);
  draw_deaths(random, scenario->ranks, span, &faults);
  if (random->chance(0.15)) {
    faults.early_leaver = any_rank(random, scenario->ranks);
    faults.leave_at_us = random->between(0, span);
  }
  if (random->chance(0.5)) faults.notice_grace_us = scenario->fault_bound_us() + 1;
  if (!random->chance(0.15)) return;
  // A stall: reported in time, ended by a rank that leaves or by the stall inspector.
  faults.missing = true;
  scenario->node.stall_warning_us = random->between(1'000, 4 * span + 1'000);
  if (random->chance(0.4)) {
    scenario->node.stall_shutdown_us = scenario->node.stall_warning_us * random->between(2, 4);
  } else if (!faults.early_leaver) {
    faults.early_leaver = any_rank(random, scenario->ranks);
    faults.leave_at_us = span * 4 + scenario->node.stall_warning_us * random->between(0, 4);
  }
}

// Half of the seeds have parts. A steady run has but those that every rank takes part in alike.
void draw_parts(Random* random, const Scenario& scenario, Parts* parts) {
  if (random->chance(0.5)) return;
  const int most = scenario.ranks > 150 ? 1 : 3;
  if (random->chance(0.5)) parts->exchanges_of_rows = static_cast<int>(random->between(1, most));
  if (scenario.steady) return;
  if (random->chance(0.6)) parts->sets = static_cast<int>(random->between(1, most));
  parts->sets_change = random->chance(0.7);
  parts->shared_names = random->chance(0.5);
  if (random->chance(0.5)) parts->transfers = static_cast<int>(random->between(1, most));
  parts->joins = random->chance(0.5);
  parts->devices = random->chance(0.5);
}

}  // namespace

bool Scenario::may_fault() const {
  return faults.crash_rank || faults.cut_rank || faults.broken_rank || node.stall_shutdown_us > 0;
}

bool Scenario::undisturbed() const {
  return !may_fault() && !faults.early_leaver && !faults.missing;
}

bool Scenario::is_slow(int rank) const {
  return std::binary_search(timing.slow_ranks.begin(), timing.slow_ranks.end(), rank);
}

TimeUs Scenario::hop_max_us() const {
  const TimeUs factor = timing.slow_ranks.empty() ? 1 : kSlowFactor;
  return timing.link_delay_max_us + (timing.wake_delay_max_us + 1) * factor + 2;
}

TimeUs Scenario::fault_bound_us() const {
  return timing.link_delay_max_us + timing.close_delay_max_us + 1 +
         2 * (depth() + 1) * hop_max_us();
}

int Scenario::depth() const { return protocol::Topology::depth(ranks, node.fan_in); }

Scenario draw_scenario(uint64_t seed, const ScenarioLimits& limits) {
  Scenario scenario;
  scenario.seed = seed;
  const Random random(seed);
  Random size = random.derive(1);
  scenario.ranks = draw_ranks(&size, limits);
  Random node = random.derive(2);
  draw_node(&node, scenario.ranks, &scenario.node);
  Random timing = random.derive(3);
  draw_timing(&timing, scenario.ranks, &scenario.timing);
  Random load = random.derive(4);
  draw_load(&load, scenario.ranks, &scenario.load);
  Random faults = random.derive(5);
  if (faults.chance(0.1)) {
    scenario.steady = true;
    make_steady(&scenario.load, &scenario.node);
  } else {
    draw_faults(&faults, &scenario);
  }
  Random parts = random.derive(6);
  if (!limits.plain) draw_parts(&parts, scenario, &scenario.parts);
  return scenario;
}

std::string Scenario::describe() const {
  std::ostringstream out;
  out << "seed " << seed << ": " << ranks << " ranks, fan-in " << node.fan_in << ", cache "
      << node.cache_capacity << ", threshold " << node.fusion_threshold_bytes << " B, window "
      << node.flush_window_us << " us, in flight " << node.max_in_flight << ", " << load.steps
      << " steps of " << load.units << " units, burst " << load.burst << ", link "
      << timing.link_delay_max_us << " us, stall warning " << node.stall_warning_us << " us";
  if (!timing.slow_ranks.empty()) out << ", " << timing.slow_ranks.size() << " slow";
  if (load.random_order) out << ", random order";
  if (!load.wait_each_step) out << ", steps overlap";
  if (parts.sets > 0) out << ", " << parts.sets << (parts.sets_change ? " changing sets" : " sets");
  if (parts.transfers > 0) out << ", " << parts.transfers << " transfers";
  if (parts.joins) out << ", joins";
  if (parts.devices) out << ", devices";
  if (faults.mismatches) out << ", mismatches";
  if (faults.duplicates) out << ", duplicates";
  if (faults.missing) out << ", missing submissions";
  if (node.stall_shutdown_us > 0) out << ", stall shutdown " << node.stall_shutdown_us << " us";
  if (faults.crash_rank) {
    out << ", rank " << *faults.crash_rank << " crashes at " << faults.crash_at_us << " us";
  }
  if (faults.second_crash_rank) {
    out << ", rank " << *faults.second_crash_rank << " crashes at " << faults.second_crash_at_us
        << " us";
  }
  if (faults.cut_rank) {
    out << ", link of rank " << *faults.cut_rank << " to its parent is cut at " << faults.cut_at_us
        << " us";
  }
  if (faults.broken_rank) {
    out << ", data plane of rank " << *faults.broken_rank << " breaks at " << faults.broken_at_us
        << " us";
  }
  if (faults.early_leaver) {
    out << ", rank " << *faults.early_leaver << " leaves at " << faults.leave_at_us << " us";
  }
  return out.str();
}

}  // namespace khorus::sim
