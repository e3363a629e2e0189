// One schedule: the world of a seed, run under every checker.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/sim/scenario.h"
#include "tests/sim/world.h"

namespace khorus::sim {

struct ScheduleResult {
  Scenario scenario;
  Ending ending;
  std::vector<std::string> failures;  // "agreement: rank 3 at 120 us: ..."
};

// `trace`: also writes what happens there; may be null.
ScheduleResult run_schedule(const Scenario& scenario, std::FILE* trace = nullptr,
                            Tamper tamper = {});

}  // namespace khorus::sim
