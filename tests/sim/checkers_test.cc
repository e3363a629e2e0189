// Every checker can fail: a sound run is falsified in one way, and the checker that guards it says
// so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/sim/checkers/liveness.h"
#include "tests/sim/rank_text.h"
#include "tests/sim/schedule.h"

namespace khorus::sim {
namespace {

using testing::AnyOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

// Four ranks, nothing goes wrong.
Scenario quiet() {
  Scenario scenario;
  scenario.seed = 7;
  scenario.ranks = 4;
  scenario.node.size = 4;
  scenario.node.fan_in = 2;
  scenario.node.epoch = 1;
  scenario.node.fusion_threshold_bytes = 4096;
  scenario.node.stall_warning_us = 3'600'000'000;
  scenario.load.steps = 6;
  scenario.load.units = 12;
  scenario.load.burst = 0;
  return scenario;
}

// One rank's user submits less than the others': a stall, ended by rank 0.
Scenario stalled() {
  Scenario scenario = quiet();
  scenario.faults.missing = true;
  scenario.node.stall_warning_us = 50'000;
  scenario.faults.early_leaver = 0;
  scenario.faults.leave_at_us = 500'000;
  return scenario;
}

Scenario mismatched() {
  Scenario scenario = quiet();
  scenario.faults.mismatches = true;
  return scenario;
}

Scenario crashing() {
  Scenario scenario = quiet();
  scenario.faults.crash_rank = 1;
  scenario.faults.crash_at_us = 1'500;
  return scenario;
}

std::vector<std::string> failures(const Scenario& scenario, Tamper tamper) {
  return run_schedule(scenario, nullptr, std::move(tamper)).failures;
}

// Falsifies the outputs of one rank, the first time that `falsify` says that it could.
Tamper once_at(int victim, std::function<bool(protocol::Output*, NodeView*)> falsify) {
  auto done = std::make_shared<bool>(false);
  Tamper tamper;
  tamper.output = [=](int rank, protocol::Output* output, NodeView* view) {
    if (rank == victim && !*done) *done = falsify(output, view);
  };
  return tamper;
}

TEST(Checkers, SoundRunsPass) {
  EXPECT_THAT(failures(quiet(), {}), IsEmpty());
  EXPECT_THAT(failures(stalled(), {}), IsEmpty());
  EXPECT_THAT(failures(mismatched(), {}), IsEmpty());
  EXPECT_THAT(failures(crashing(), {}), IsEmpty());
}

TEST(Checkers, AgreementSeesExecutionsInAnotherOrder) {
  const auto found = failures(quiet(), once_at(2, [](protocol::Output* output, NodeView*) {
                                if (output->executions.size() < 2) return false;
                                std::swap(output->executions.front(), output->executions.back());
                                return true;
                              }));
  EXPECT_THAT(found, Contains(StartsWith("agreement: rank 2")));
  // And the data plane stands still, as a real one would.
  EXPECT_THAT(found, Contains(StartsWith("liveness:")));
}

TEST(Checkers, AgreementSeesAnotherDecisionOnOneLink) {
  Tamper tamper;
  tamper.frame = [](int from, int to, wire::Frame* frame) {
    auto* decision = std::get_if<wire::Decision>(&frame->message);
    if (from == 0 && to == 2 && decision != nullptr && decision->sequence == 2) {
      std::reverse(decision->responses.begin(), decision->responses.end());
      decision->responses.push_back({StatusCode::kMismatch, "made up", {}, 0, {}, {}});
    }
  };
  EXPECT_THAT(failures(quiet(), tamper),
              Contains(AnyOf(HasSubstr("another decision"), HasSubstr("than an earlier rank"))));
}

TEST(Checkers, AgreementSeesASkippedDecision) {
  const auto found = failures(quiet(), once_at(3, [](protocol::Output* output, NodeView*) {
                                if (output->agreed_rounds.empty()) return false;
                                output->agreed_rounds.front() += 5;
                                return true;
                              }));
  EXPECT_THAT(found, Contains(StartsWith("agreement: rank 3")));
}

TEST(Checkers, ExactlyOnceSeesALostCompletion) {
  const auto found = failures(mismatched(), once_at(1, [](protocol::Output* output, NodeView*) {
                                if (output->completions.empty()) return false;
                                output->completions.pop_back();
                                return true;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("never got an outcome")));
}

TEST(Checkers, ExactlyOnceSeesASecondCompletion) {
  const auto found = failures(mismatched(), once_at(1, [](protocol::Output* output, NodeView*) {
                                if (output->completions.empty()) return false;
                                output->completions.push_back(output->completions.front());
                                return true;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("a second outcome")));
}

TEST(Checkers, ValueSeesAForeignTicket) {
  const auto found = failures(quiet(), once_at(1, [](protocol::Output* output, NodeView*) {
                                for (protocol::Execution& execution : output->executions) {
                                  if (execution.tickets.size() < 2) continue;
                                  std::swap(execution.tickets.front(), execution.tickets.back());
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(StartsWith("value: rank 1")));
}

TEST(Checkers, ValueSeesAWrongExtent) {
  const auto found = failures(quiet(), once_at(1, [](protocol::Output* output, NodeView*) {
                                for (protocol::Execution& execution : output->executions) {
                                  auto& extents = execution.response.tensors.front().extents;
                                  if (extents.empty()) continue;
                                  extents[1] += 1;
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("submitted extent")));
}

TEST(Checkers, ValueSeesTooMuchFused) {
  Scenario scenario = quiet();
  scenario.node.fusion_threshold_bytes = 64 << 20;
  const auto found = failures(scenario, once_at(1, [](protocol::Output* output, NodeView*) {
                                for (protocol::Execution& execution : output->executions) {
                                  if (execution.tickets.size() < 2) continue;
                                  auto& first = execution.response.tensors.front().request;
                                  first.shape = {int64_t{1} << 30};
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("the threshold is")));
}

TEST(Checkers, OutcomeSeesAnErrorThatNothingCaused) {
  const auto found = failures(quiet(), once_at(3, [](protocol::Output* output, NodeView*) {
                                for (protocol::Completion& completion : output->completions) {
                                  completion.status = Status(StatusCode::kInternal, "made up");
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(AllOf(StartsWith("outcome: rank 3"), HasSubstr("made up"))));
}

TEST(Checkers, OutcomeSeesASwallowedMismatch) {
  const auto found = failures(mismatched(), once_at(2, [](protocol::Output* output, NodeView*) {
                                for (protocol::Completion& completion : output->completions) {
                                  if (completion.status.ok()) continue;
                                  completion.status = Status();
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(StartsWith("outcome: rank 2")));
}

TEST(Checkers, CacheEqualitySeesAnotherDigest) {
  const auto found = failures(quiet(), once_at(2, [](protocol::Output*, NodeView* view) {
                                if (view->applied_sequence < 2) return false;
                                view->state_digest ^= 1;
                                return true;
                              }));
  EXPECT_THAT(found, Contains(StartsWith("cache equality: rank 2")));
}

TEST(Checkers, CacheEqualitySeesAnOverfullCache) {
  const auto found = failures(quiet(), once_at(0, [](protocol::Output*, NodeView* view) {
                                view->stats.cached_tensors = 5000;
                                return true;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("5000 tensors in a cache of 4096")));
}

TEST(Checkers, BoundsSeesReportsThatAreNotGathered) {
  Scenario scenario = quiet();
  scenario.steady = true;
  scenario.load.barriers = scenario.load.exchanges = false;
  EXPECT_THAT(failures(scenario, {}), IsEmpty());
  scenario.load.burst = 2;  // bursts give more than one report per step
  EXPECT_THAT(failures(scenario, {}), Contains(HasSubstr("steps in which nothing changed")));
  scenario.load.burst = 0;
  scenario.node.cache_capacity = 2;  // too small: nothing is ever known
  EXPECT_THAT(failures(scenario, {}), Contains(HasSubstr("reports in full")));
}

TEST(Checkers, GroupsSeesAMemberThatRunsAlone) {
  const auto found =
      failures(quiet(), once_at(1, [](protocol::Output* output, NodeView*) {
                 for (protocol::Execution& execution : output->executions) {
                   if (execution.response.tensors.front().request.group_size < 2) {
                     continue;
                   }
                   output->completions.push_back({execution.tickets.back(), Status(), {}});
                   execution.tickets.pop_back();
                   return true;
                 }
                 return false;
               }));
  EXPECT_THAT(found, Contains(HasSubstr("did not run together")));
}

TEST(Checkers, TruthSeesAMismatchThatNamesTheWrongRanks) {
  Tamper tamper;
  tamper.output = [](int rank, protocol::Output* output, NodeView*) {
    if (rank != 0) return;
    for (auto& [to, frame] : output->frames) {
      auto* decision = std::get_if<wire::Decision>(&frame.message);
      if (decision == nullptr) continue;
      for (wire::Response& response : decision->responses) {
        const size_t at = response.error.find(" on rank");
        if (at != std::string::npos) response.error.insert(at + 8, "s 0,");
      }
    }
  };
  EXPECT_THAT(failures(mismatched(), tamper), Contains(HasSubstr("is wrong about the")));
}

TEST(Checkers, TruthSeesWordsThatWereNotDecided) {
  const auto found = failures(mismatched(), once_at(2, [](protocol::Output* output, NodeView*) {
                                for (protocol::Completion& completion : output->completions) {
                                  if (completion.status.code() != StatusCode::kMismatch) continue;
                                  completion.status = Status(StatusCode::kMismatch, "made up");
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("which was not decided")));
}

TEST(Checkers, TruthSeesTheWrongRankNamedAsLost) {
  const auto found = failures(crashing(), once_at(3, [](protocol::Output* output, NodeView*) {
                                if (!output->fault) return false;
                                output->fault = Status(StatusCode::kPeerLost,
                                                       "rank 2 (node-0, pid 1002) is lost", 2);
                                return true;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("which has not crashed")));
}

// Stall reports with a word replaced, in the root's log.
Tamper replacing(const std::string& what, const std::string& by) {
  Tamper tamper;
  tamper.output = [=](int rank, protocol::Output* output, NodeView*) {
    for (protocol::LogLine& line : output->log) {
      const size_t at = line.text.find(what);
      if (rank == 0 && at != std::string::npos) line.text.replace(at, what.size(), by);
    }
  };
  return tamper;
}

TEST(Checkers, TruthSeesFalseStallReports) {
  EXPECT_THAT(
      failures(stalled(), replacing(", submitted by rank", ", submitted by ranks 0,1,2,rank")),
      Contains(HasSubstr("does not name every rank once")));
  EXPECT_THAT(failures(stalled(), replacing("last submitted ", "last submitted un")),
              Contains(HasSubstr("which is not so")));
  EXPECT_THAT(failures(stalled(), replacing(", pid 10", ", pid 99")),
              Contains(HasSubstr("does not say where rank")));
}

TEST(Checkers, TruthSeesAStallThatIsNotReported) {
  Tamper tamper;
  tamper.output = [](int, protocol::Output* output, NodeView*) { output->log.clear(); };
  EXPECT_THAT(failures(stalled(), tamper), Contains(HasSubstr("no report said so")));
}

TEST(Checkers, LivenessSeesALostFrame) {
  // Rank 3's report loses what it says, and nobody will ever say it again.
  auto lost = std::make_shared<bool>(false);
  Tamper tamper;
  tamper.frame = [lost](int from, int, wire::Frame* frame) {
    auto* report = std::get_if<wire::Report>(&frame->message);
    if (from != 3 || report == nullptr || *lost) return;
    *lost = true;
    report->contributions.clear();
  };
  EXPECT_THAT(failures(quiet(), tamper), Contains(HasSubstr("a wait without an end")));
}

TEST(Checkers, LivenessSeesALateDecisionAndALateFault) {
  const Scenario scenario = quiet();
  const Workload workload(scenario);
  protocol::Submission submission;
  submission.request.name = "w";
  protocol::Output decided;
  decided.executions.emplace_back().response.tensors.push_back({submission.request, {}, {}});
  protocol::Output faulted;
  faulted.fault = Status(StatusCode::kPeerLost, "rank 1 is lost", 1);
  for (const auto& [delay_us, late] : {std::pair(TimeUs{100}, false), {TimeUs{10'000'000}, true}}) {
    Liveness liveness;
    liveness.begin(scenario, workload);
    liveness.submitted(2, {}, {&submission, 1}, 5);
    liveness.ticked(2, decided, {}, 5 + delay_us);
    EXPECT_EQ(liveness.failures().size(), late ? 1U : 0U);
    liveness.crashed(1, 10);
    liveness.ticked(3, faulted, {}, 10 + delay_us);
    EXPECT_EQ(liveness.failures().size(), late ? 2U : 0U);
  }
}

TEST(RankText, WritesAndReadsLists) {
  EXPECT_EQ(rank_text({3}), "rank 3");
  EXPECT_EQ(rank_text({0, 1, 2, 4, 6, 7}), "ranks 0-2,4,6,7");
  EXPECT_EQ(read_ranks("ranks 0-2,4, submitted by"), (std::vector<int>{0, 1, 2, 4}));
  EXPECT_EQ(read_ranks("rank 12 (node-1)"), (std::vector<int>{12}));
  EXPECT_EQ(read_ranks("nobody"), std::nullopt);
}

}  // namespace
}  // namespace khorus::sim
