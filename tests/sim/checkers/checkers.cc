// See checker.h.
#include "tests/sim/checkers/agreement.h"
#include "tests/sim/checkers/bounds.h"
#include "tests/sim/checkers/cache_equality.h"
#include "tests/sim/checkers/exactly_once.h"
#include "tests/sim/checkers/groups.h"
#include "tests/sim/checkers/liveness.h"
#include "tests/sim/checkers/meetings.h"
#include "tests/sim/checkers/membership.h"
#include "tests/sim/checkers/outcome.h"
#include "tests/sim/checkers/truth.h"
#include "tests/sim/checkers/value.h"

namespace khorus::sim {

std::vector<std::unique_ptr<Checker>> make_checkers() {
  std::vector<std::unique_ptr<Checker>> checkers;
  checkers.push_back(std::make_unique<Agreement>());
  checkers.push_back(std::make_unique<ExactlyOnce>());
  checkers.push_back(std::make_unique<Value>());
  checkers.push_back(std::make_unique<Outcome>());
  checkers.push_back(std::make_unique<CacheEquality>());
  checkers.push_back(std::make_unique<Bounds>());
  checkers.push_back(std::make_unique<Groups>());
  checkers.push_back(std::make_unique<Membership>());
  checkers.push_back(std::make_unique<Meetings>());
  checkers.push_back(std::make_unique<Truth>());
  checkers.push_back(std::make_unique<Liveness>());
  return checkers;
}

}  // namespace khorus::sim
