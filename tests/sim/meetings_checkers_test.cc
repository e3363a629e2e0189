// That the checker of meetings notices: runs with process sets, transfers and joins on devices, in
// which some rank is given a meeting too few, too many or in the wrong place.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "tests/sim/checkers/meetings.h"
#include "tests/sim/schedule.h"

namespace khorus::sim {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

// Two send/recvs are all that is on devices, so one of them is the first of all ranks.
Scenario of_transfers() {
  Scenario scenario;
  scenario.seed = 3;
  scenario.ranks = 4;
  scenario.node.size = 4;
  scenario.node.fan_in = 2;
  scenario.node.epoch = 1;
  scenario.node.stall_warning_us = 3'600'000'000;
  scenario.load.steps = 4;
  scenario.load.units = 3;
  scenario.parts.transfers = 4;
  scenario.parts.devices = true;
  return scenario;
}

// What `change` makes of the meetings that a rank is given; false: nothing, go on.
template <class Change>
std::vector<std::string> failures(Change change, int* seen = nullptr) {
  Tamper tamper;
  tamper.output = [change, seen, done = false](int, protocol::Output* output, NodeView*) mutable {
    for (size_t i = 0; i < output->executions.size(); ++i) {
      if (!output->executions[i].meets_only) continue;
      if (seen != nullptr) ++*seen;
      if (!done) done = change(output, i);
    }
  };
  return run_schedule(of_transfers(), nullptr, std::move(tamper)).failures;
}

TEST(Meetings, AreOfAllThatDoNotTakePart) {
  int seen = 0;
  const auto nothing = [](protocol::Output*, size_t) { return false; };
  EXPECT_THAT(failures(nothing, &seen), IsEmpty());
  EXPECT_EQ(seen, 2);  // 4 ranks but for the two of the first transfer
}

// The others wait for it for ever.
TEST(Meetings, ARankThatIsNotToldIsMissed) {
  const auto found = failures([](protocol::Output* output, size_t i) {
    output->executions.erase(output->executions.begin() + static_cast<ptrdiff_t>(i));
    return true;
  });
  EXPECT_THAT(found, Contains(HasSubstr("a wait without an end")));
}

TEST(Meetings, SeesAnotherFirstOne) {
  Meetings meetings;
  meetings.begin(of_transfers(), Workload(of_transfers()));
  protocol::Output output;
  protocol::Execution& execution = output.executions.emplace_back();
  execution.sequence = 1;
  execution.response.tensors.emplace_back().request.device = DeviceKind::kCuda;
  meetings.ticked(0, output, {}, 1);
  EXPECT_THAT(meetings.failures(), IsEmpty());
  meetings.end({std::vector<RankState>(4, RankState::kGoodbye), false, 2});
  EXPECT_THAT(meetings.failures(), Contains(HasSubstr("did not meet the others")));
  execution.sequence = 2;
  meetings.ticked(1, output, {}, 3);
  EXPECT_THAT(meetings.failures(), Contains(HasSubstr("another one is on another rank")));
}

TEST(Meetings, SeesThatARankIsToldTwice) {
  const auto found = failures([](protocol::Output* output, size_t i) {
    protocol::Execution again = output->executions[i];
    output->executions.push_back(std::move(again));
    return true;
  });
  EXPECT_THAT(found, Contains(HasSubstr("met for after another operation on a device")));
}

TEST(Meetings, SeesATicket) {
  const auto found = failures([](protocol::Output* output, size_t i) {
    output->executions[i].tickets.push_back(0);
    return true;
  });
  EXPECT_THAT(found, Contains(HasSubstr("without tickets")));
}

TEST(Meetings, SeesOneOfTheCpu) {
  const auto found = failures([](protocol::Output* output, size_t i) {
    output->executions[i].response.tensors.front().request.device = DeviceKind::kCpu;
    return true;
  });
  EXPECT_THAT(found, Contains(HasSubstr("is no send/recv on a device")));
}

}  // namespace
}  // namespace khorus::sim
