// The checkers can fail where there are process sets, joins and transfers too: sound runs pass,
// falsified ones do not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>

#include "tests/sim/checkers/agreement.h"
#include "tests/sim/checkers/liveness.h"
#include "tests/sim/checkers/membership.h"
#include "tests/sim/checkers/truth.h"
#include "tests/sim/schedule.h"

namespace khorus::sim {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

// Four ranks, two process sets, transfers and joins; nothing goes wrong.
Scenario parted() {
  Scenario scenario;
  scenario.seed = 7;
  scenario.ranks = 4;
  scenario.node.size = 4;
  scenario.node.fan_in = 2;
  scenario.node.epoch = 1;
  scenario.node.stall_warning_us = 3'600'000'000;
  scenario.load.steps = 8;
  scenario.load.units = 6;
  scenario.parts.sets = 2;
  scenario.parts.sets_change = true;
  scenario.parts.shared_names = true;
  scenario.parts.transfers = 2;
  scenario.parts.exchanges_of_rows = 2;
  scenario.parts.joins = true;
  return scenario;
}

std::vector<std::string> failures(const Scenario& scenario, Tamper tamper) {
  return run_schedule(scenario, nullptr, std::move(tamper)).failures;
}

// Falsifies one output, the first that `falsify` says that it could.
Tamper once(std::function<bool(int rank, protocol::Output*)> falsify) {
  auto done = std::make_shared<bool>(false);
  Tamper tamper;
  tamper.output = [=](int rank, protocol::Output* output, NodeView*) {
    if (!*done) *done = falsify(rank, output);
  };
  return tamper;
}

wire::Request request_of(OpKind kind, const std::string& name, ProcessSetId set = 0) {
  wire::Request request;
  request.kind = kind;
  request.name = name;
  request.process_set = set;
  return request;
}

void submit(Observer* observer, int rank, uint64_t ticket, const wire::Request& request,
            TimeUs now = 0) {
  protocol::Submission submission;
  submission.ticket = ticket;
  submission.request = request;
  observer->submitted(rank, {}, {&submission, 1}, now);
}

void complete(Observer* observer, int rank, protocol::Completion completion, TimeUs now = 1) {
  protocol::Output output;
  output.completions.push_back(std::move(completion));
  observer->ticked(rank, output, {}, now);
}

TEST(PartsCheckers, SoundRunsPass) {
  EXPECT_THAT(failures(parted(), {}), IsEmpty());
  Scenario mismatched = parted();
  mismatched.faults.mismatches = mismatched.faults.duplicates = true;
  EXPECT_THAT(failures(mismatched, {}), IsEmpty());
}

TEST(PartsCheckers, MembershipSeesAPartWithoutATicket) {
  const auto found = failures(parted(), once([](int, protocol::Output* output) {
                                for (protocol::Execution& execution : output->executions) {
                                  if (execution.tickets.front() == 0) continue;
                                  execution.tickets.front() = 0;
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("without a ticket although it has not joined")));
  EXPECT_THAT(found, Contains(HasSubstr("never got an outcome")));
}

TEST(PartsCheckers, MembershipSeesAnotherId) {
  const auto found = failures(parted(), once([](int rank, protocol::Output* output) {
                                for (protocol::Completion& completion : output->completions) {
                                  if (rank != 2 || completion.value < 0) continue;
                                  ++completion.value;
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(StartsWith("membership: rank")));
  EXPECT_THAT(found, Contains(StartsWith("agreement: rank")));
}

TEST(PartsCheckers, MembershipSeesAChangeThatIsNotTold) {
  const auto found = failures(parted(), once([](int, protocol::Output* output) {
                                if (output->set_changes.empty()) return false;
                                output->set_changes.pop_back();
                                return true;
                              }));
  EXPECT_THAT(found, Contains(HasSubstr("changes of its process sets, and not of the")));
}

TEST(PartsCheckers, MembershipSeesRowsOfAJoinedRank) {
  Membership membership;
  membership.begin(parted(), Workload(parted()));
  submit(&membership, 2, 1, request_of(OpKind::kJoin, "join"));
  protocol::Output output;
  protocol::Execution& execution = output.executions.emplace_back();
  execution.tickets = {0};
  wire::ResponseTensor& tensor = execution.response.tensors.emplace_back();
  tensor.request = request_of(OpKind::kAllgather, "rows");
  tensor.extents = {4, 4, 0, 4};
  membership.ticked(2, output, {}, 1);
  EXPECT_THAT(membership.failures(), IsEmpty());
  tensor.extents[2] = 3;
  membership.ticked(2, output, {}, 2);
  EXPECT_THAT(membership.failures(), Contains(HasSubstr("has joined and is said to give 3 rows")));
}

TEST(PartsCheckers, MembershipSeesAJoinThatEndsEarlyOrNamesTheWrongRank) {
  const auto join = request_of(OpKind::kJoin, "join");
  for (const bool early : {true, false}) {
    Membership membership;
    membership.begin(parted(), Workload(parted()));
    for (int rank = 0; rank < (early ? 3 : 4); ++rank) {
      submit(&membership, rank, 1, join, rank * 1'000'000);
    }
    complete(&membership, 0, {1, Status(), {}, 1, 3}, 9'000'000);
    EXPECT_EQ(membership.failures().empty(), !early);
    complete(&membership, 1, {1, Status(), {}, 1, 1}, 9'000'000);
    if (early) continue;
    EXPECT_THAT(membership.failures(), Contains(HasSubstr("us before another")));
    EXPECT_THAT(membership.failures(), Contains(HasSubstr("another rank's named rank 3")));
  }
}

TEST(PartsCheckers, MembershipSeesARemovedSetsOperationEndInTwoWays) {
  Membership membership;
  membership.begin(parted(), Workload(parted()));
  for (int rank : {0, 1}) submit(&membership, rank, 1, request_of(OpKind::kBarrier, "b", 1));
  const Status over(StatusCode::kInvalidArgument, "process set 1 was removed");
  complete(&membership, 0, {1, Status(), {}, 1, -1});
  EXPECT_THAT(membership.failures(), IsEmpty());
  complete(&membership, 1, {1, over, {}, 0, -1});
  EXPECT_THAT(membership.failures(), Contains(HasSubstr("ended with the set on another")));
}

TEST(PartsCheckers, MembershipSeesARemovedSetAtWork) {
  Membership membership;
  membership.begin(parted(), Workload(parted()));
  protocol::Output output;
  output.executions.emplace_back().response.process_set = 1;
  membership.ticked(0, output, {}, 1);
  EXPECT_THAT(membership.failures(), IsEmpty());
  protocol::Output removed;
  removed.set_changes.push_back({1, false, {}});
  membership.ticked(0, removed, {}, 2);
  membership.ticked(0, output, {}, 3);
  EXPECT_THAT(membership.failures(), Contains(HasSubstr("which it was told is no more")));
}

TEST(PartsCheckers, AgreementSeesATransferOfOthers) {
  Agreement agreement;
  agreement.begin(parted(), Workload(parted()));
  protocol::Output output;
  protocol::Execution& execution = output.executions.emplace_back();
  execution.sequence = 1;
  wire::Request& request = execution.response.tensors.emplace_back().request;
  request = request_of(OpKind::kSendRecv, "0>1");
  request.peer = 1;
  agreement.ticked(1, output, {}, 1);
  EXPECT_THAT(agreement.failures(), IsEmpty());
  agreement.ticked(2, output, {}, 2);
  EXPECT_THAT(agreement.failures(), Contains(HasSubstr("is one of other ranks")));
}

TEST(PartsCheckers, OutcomeSeesARefusalWithoutARemoval) {
  const auto found = failures(parted(), once([](int, protocol::Output* output) {
                                for (protocol::Completion& completion : output->completions) {
                                  if (!completion.status.ok()) continue;
                                  completion.status =
                                      Status(StatusCode::kInvalidArgument, "made up");
                                  return true;
                                }
                                return false;
                              }));
  EXPECT_THAT(found, Contains(AllOf(StartsWith("outcome: rank"), HasSubstr("made up"))));
}

TEST(PartsCheckers, TruthSeesAJoinedRankNamedAsMissing) {
  Scenario scenario = parted();
  scenario.node.stall_warning_us = 50'000;
  for (const bool joined : {false, true}) {
    Truth truth;
    truth.begin(scenario, Workload(scenario));
    for (int rank : {0, 1}) submit(&truth, rank, 1, request_of(OpKind::kAllreduce, "w"));
    if (joined) submit(&truth, 3, 1, request_of(OpKind::kJoin, "join"));
    protocol::Output output;
    output.log.push_back({LogLevel::kWarning,
                          "stall: allreduce \"w\" has waited 1.0 s for ranks 2,3, submitted by "
                          "ranks 0,1. "});
    truth.ticked(0, output, {}, 1'000'000);
    EXPECT_EQ(truth.failures().size(), joined ? 1U : 0U);
    if (!joined) continue;
    EXPECT_THAT(truth.failures(), Contains(HasSubstr("but it joined at 0 us")));
  }
}

// Where rank 0 has submitted "w" in process set 1 (ranks 0 and 2), and rank 2 something else or
// nothing.
void begin_with_a_set(Truth* truth, std::optional<DataType> of_rank_2) {
  Scenario scenario = parted();
  scenario.node.stall_warning_us = 50'000;
  truth->begin(scenario, Workload(scenario));
  wire::Request add = request_of(OpKind::kAddProcessSet, "add");
  add.members = wire::RankSet::of({0, 2});
  for (int rank = 0; rank < 4; ++rank) {
    submit(truth, rank, 1, add);
    complete(truth, rank, {1, Status(), {}, 1, 1});
  }
  wire::Request request = request_of(OpKind::kAllreduce, "w", 1);
  submit(truth, 0, 2, request);
  if (!of_rank_2) return;
  request.dtype = *of_rank_2;
  submit(truth, 2, 2, request);
}

void log_line(Truth* truth, const std::string& text, TimeUs now) {
  protocol::Output output;
  output.log.push_back({LogLevel::kWarning, text});
  truth->ticked(0, output, {}, now);
}

TEST(PartsCheckers, TruthSeesAStallInAnotherProcessSet) {
  for (const auto& [set, right] : {std::pair(" in process set 1 (ranks 0,2)", true),
                                   {" in process set 1 (ranks 0,1)", false},
                                   {" in process set 2 (ranks 0,2)", false},
                                   {"", false}}) {
    Truth truth;
    begin_with_a_set(&truth, std::nullopt);
    log_line(&truth,
             std::string("stall: allreduce \"w\"") + set +
                 " has waited 0.1 s for rank 2 (node-0), submitted by rank 0 (node-0). ",
             100'000);
    EXPECT_EQ(truth.failures().empty(), right) << set;
  }
}

TEST(PartsCheckers, TruthSeesAMismatchInAnotherProcessSet) {
  for (const auto& [set, right] : {std::pair(" in process set 1 (ranks 0,2)", true),
                                   {" in process set 1 (ranks 0-3)", false},
                                   {"", false}}) {
    Truth truth;
    begin_with_a_set(&truth, DataType::kInt64);
    wire::Decision decision;
    wire::Response& response = decision.responses.emplace_back();
    response.code = StatusCode::kMismatch;
    response.process_set = 1;
    response.tensors.push_back({request_of(OpKind::kAllreduce, "w", 1), {}, {}});
    response.error = std::string("allreduce \"w\"") + set +
                     " has dtype float32 on rank 0 (node-0) and int64 on rank 2 (node-0); submit";
    protocol::Output output;
    output.frames.push_back({1, {1, decision}});
    truth.ticked(0, output, {}, 2);
    EXPECT_EQ(truth.failures().empty(), right) << set;
  }
}

TEST(PartsCheckers, TruthSeesFalseReportsOfAJoin) {
  constexpr TimeUs kNow = 1'000'000;
  const auto judged = [](const std::string& who, TimeUs rank_2_busy_at) {
    Truth truth;
    Scenario scenario = parted();
    scenario.node.stall_warning_us = 50'000;
    truth.begin(scenario, Workload(scenario));
    for (int rank : {0, 1, 3}) submit(&truth, rank, 1, request_of(OpKind::kJoin, "join"), 0);
    log_line(&truth, "stall: join has waited 0.9 s for rank 2 (node-0), joined by ranks 0,1,3. ",
             400'000);
    submit(&truth, 2, 1, request_of(OpKind::kAllreduce, "w"), rank_2_busy_at);
    log_line(&truth, "stall: join has waited 0.9 s for " + who + ". ", kNow);
    return truth.failures();
  };
  EXPECT_THAT(judged("rank 2 (node-0), joined by ranks 0,1,3", 400'000), IsEmpty());
  EXPECT_THAT(judged("ranks 1,2, joined by ranks 0,3", 400'000),
              Contains(HasSubstr("says that rank 1 has not joined, but it did")));
  EXPECT_THAT(judged("rank 3 (node-0), joined by ranks 0-2", 400'000),
              Contains(HasSubstr("does not say that rank 2 has not joined")));
  EXPECT_THAT(judged("rank 2 (node-0), submitted by ranks 0,1,3", 400'000),
              Contains(HasSubstr("does not say who is missing")));
  EXPECT_THAT(judged("rank 2 (node-0), joined by ranks 0,1,3", kNow - 25'000),
              Contains(HasSubstr("but rank 2 submitted w at 975000 us")));
}

TEST(PartsCheckers, TruthSeesAJoinThatIsNotReported) {
  for (const bool reported : {true, false}) {
    Truth truth;
    Scenario scenario = parted();
    scenario.node.stall_warning_us = 50'000;
    truth.begin(scenario, Workload(scenario));
    for (int rank : {0, 1, 3}) submit(&truth, rank, 1, request_of(OpKind::kJoin, "join"), 0);
    if (reported) {
      log_line(&truth, "stall: join has waited 0.1 s for rank 2 (node-0), joined by ranks 0,1,3. ",
               60'000);
    }
    submit(&truth, 2, 1, request_of(OpKind::kAllreduce, "w"), 1'000'000);
    EXPECT_EQ(truth.failures().empty(), reported);
  }
}

TEST(PartsCheckers, TruthSeesAFalseReportOfAJoinedGroup) {
  const auto judged = [](const std::string& error) {
    Truth truth;
    truth.begin(parted(), Workload(parted()));
    for (int rank : {0, 1, 2, 3}) {
      wire::Request member = request_of(OpKind::kAllreduce, "x");
      member.group = "g";
      submit(&truth, rank, 1, member);
      member.name = rank == 2 ? "z" : "y";
      submit(&truth, rank, 2, member);
    }
    for (int rank : {1, 2}) submit(&truth, rank, 3, request_of(OpKind::kJoin, "join"));
    wire::Decision decision;
    wire::Response& response = decision.responses.emplace_back();
    response.code = StatusCode::kMismatch;
    response.failed_groups.push_back("g");
    response.error = error;
    protocol::Output output;
    output.frames.push_back({1, {1, decision}});
    truth.ticked(0, output, {}, 1);
    return truth.failures();
  };
  const auto of = [](const std::string& who) {
    return "group \"g\": " + who +
           " submitted allreduce \"x\" and joined without allreduce \"y\"; submit";
  };
  EXPECT_THAT(judged(of("rank 2 (node-0)")), IsEmpty());
  EXPECT_THAT(judged(of("ranks 1,2")), Contains(HasSubstr("which is not so of rank 1")));
  EXPECT_THAT(judged(of("nobody")), Contains(HasSubstr("names no ranks")));
}

TEST(PartsCheckers, TruthSeesTheWrongRanksNamedAsJoined) {
  for (const auto& [ranks, right] : {std::pair("ranks 1,3", true), {"ranks 1,2", false}}) {
    Truth truth;
    truth.begin(parted(), Workload(parted()));
    wire::Request max = request_of(OpKind::kAllreduce, "w");
    max.op = ReduceOp::kMax;
    for (int rank : {0, 2}) submit(&truth, rank, 1, max);
    for (int rank : {1, 3}) submit(&truth, rank, 1, request_of(OpKind::kJoin, "join"));
    wire::Decision decision;
    wire::Response& response = decision.responses.emplace_back();
    response.code = StatusCode::kMismatch;
    response.tensors.push_back({max, {}, {}});
    response.error = std::string("allreduce \"w\": zeros of ") + ranks + ", joined, would spoil it";
    protocol::Output output;
    output.frames.push_back({1, {1, decision}});
    truth.ticked(0, output, {}, 1);
    EXPECT_EQ(truth.failures().empty(), right);
  }
}

TEST(PartsCheckers, LivenessSeesALateEndOfAJoin) {
  for (const bool late : {false, true}) {
    Liveness liveness;
    liveness.begin(parted(), Workload(parted()));
    submit(&liveness, 2, 1, request_of(OpKind::kJoin, "join"), 5);
    complete(&liveness, 2, {1, Status(), {}, 1, 2}, late ? 10'000'000 : 100);
    EXPECT_EQ(liveness.failures().size(), late ? 1U : 0U);
  }
}

}  // namespace
}  // namespace khorus::sim
