// See schedule.h.
#include "tests/sim/schedule.h"

#include <memory>

#include "tests/sim/checkers/checker.h"
#include "tests/sim/trace.h"

namespace khorus::sim {

ScheduleResult run_schedule(const Scenario& scenario, std::FILE* trace, Tamper tamper) {
  std::vector<std::unique_ptr<Checker>> checkers = make_checkers();
  std::vector<Observer*> observers;
  std::unique_ptr<Trace> tracer;
  if (trace != nullptr) {
    tracer = std::make_unique<Trace>(trace);
    observers.push_back(tracer.get());
  }
  for (const auto& checker : checkers) observers.push_back(checker.get());
  ScheduleResult result;
  result.scenario = scenario;
  result.ending = World(scenario, observers, std::move(tamper)).run();
  for (const auto& checker : checkers) {
    for (const std::string& failure : checker->failures()) {
      result.failures.push_back(std::string(checker->name()) + ": " + failure);
    }
  }
  return result;
}

}  // namespace khorus::sim
