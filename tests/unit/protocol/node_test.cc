// Nodes by hand: small worlds without delays, and neighbours that send what no correct one sends.
#include "core/protocol/node.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/protocol/small_world.h"

namespace khorus::protocol {
namespace {

using testing::HasSubstr;
using wire::RankSet;

TEST(Node, AloneItAgreesWithItself) {
  World world(1);
  world.submit(0, 1, allreduce("w"));
  world.settle();
  ASSERT_EQ(world.output(0).executions.size(), 1U);
  EXPECT_EQ(world.output(0).executions[0].tickets, std::vector<uint64_t>{1});
  world.node(0).executions_finished(1, 0);
  world.node(0).leave("done", 0);
  world.settle();
  EXPECT_TRUE(world.output(0).shutdown);
  world.node(0).drained(0);
  world.settle();
  EXPECT_TRUE(world.output(0).goodbye);
}

TEST(Node, RunsWhatAllHaveSubmittedAndNothingElse) {
  World world(5);
  for (int rank = 0; rank < 4; ++rank) world.submit(rank, 1, allreduce("w"));
  world.settle();
  for (int rank = 0; rank < 5; ++rank) EXPECT_TRUE(world.output(rank).executions.empty());
  world.submit(4, 9, allreduce("w"));
  world.settle();
  for (int rank = 0; rank < 5; ++rank) {
    ASSERT_EQ(world.output(rank).executions.size(), 1U) << rank;
    EXPECT_EQ(world.output(rank).executions[0].tickets[0], rank == 4 ? 9U : 1U);
  }
}

TEST(Node, TheSecondTimeComesFromTheCache) {
  World world(3);
  for (uint64_t ticket : {1U, 2U}) {
    world.submit_everywhere(ticket, allreduce("w"));
    world.settle();
  }
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(world.output(rank).executions.size(), 2U);
    EXPECT_EQ(world.node(rank).stats().submitted_from_cache, 1U);
    EXPECT_EQ(world.node(rank).state_digest(), world.node(0).state_digest());
  }
}

TEST(Node, ADuplicateNameIsRefusedAndTheFirstGoesOn) {
  World world(2);
  world.submit_everywhere(1, allreduce("w"));
  world.submit(1, 2, allreduce("w"));
  world.settle();
  ASSERT_EQ(world.output(1).completions.size(), 1U);
  EXPECT_EQ(world.output(1).completions[0].ticket, 2U);
  EXPECT_EQ(world.output(1).completions[0].status.code(), StatusCode::kDuplicateName);
  EXPECT_THAT(world.output(1).completions[0].status.message(),
              HasSubstr("allreduce \"w\" was submitted again on rank 1"));
  EXPECT_EQ(world.output(1).executions.size(), 1U);
}

TEST(Node, BeforeAStallIsToldToAllTheMissingRankIsAsked) {
  World world(5);
  for (int rank = 0; rank < 5; ++rank) {
    if (rank != 3) world.submit(rank, 1, allreduce("w"));
  }
  const auto told = [&] {
    uint64_t reports = 0;
    for (int rank = 0; rank < 5; ++rank) reports += world.node(rank).stats().stall_reports;
    return reports;
  };
  while (!world.output(3).waited_for) {
    EXPECT_EQ(told(), 0U);
    world.pass(1'000'000);
    world.settle();
  }
  for (int second = 0; second < 30; ++second) {
    world.pass(1'000'000);
    world.settle();
  }
  EXPECT_EQ(told(), 5U) << "once on every rank";
  for (int rank = 0; rank < 5; ++rank) EXPECT_EQ(world.output(rank).waited_for, rank == 3);
}

TEST(Node, AnUnknownProcessSetIsRefused) {
  World world(2);
  wire::Request request = allreduce("w");
  request.process_set = 5;
  world.submit(0, 1, request);
  world.settle();
  ASSERT_EQ(world.output(0).completions.size(), 1U);
  EXPECT_EQ(world.output(0).completions[0].status.code(), StatusCode::kInvalidArgument);
}

TEST(Node, AMismatchLeavesTheWorldUsable) {
  World world(3);
  world.submit(0, 1, allreduce("w"));
  world.submit(1, 1, allreduce("w"));
  wire::Request other = allreduce("w");
  other.shape = {5};
  world.submit(2, 1, other);
  world.settle();
  for (int rank = 0; rank < 3; ++rank) {
    ASSERT_EQ(world.output(rank).completions.size(), 1U);
    EXPECT_EQ(world.output(rank).completions[0].status.code(), StatusCode::kMismatch);
  }
  world.submit_everywhere(2, allreduce("w"));
  world.settle();
  EXPECT_EQ(world.output(2).executions.size(), 1U);
}

// Ranks 1, 3 and 4 are a subtree. It has submitted "y", rank 3 in a group that then fails: what it
// submits again has to reach the root, which waits with what the other two have submitted.
TEST(Node, WhatAFailedGroupTakesBackMeetsTheRestWhenItComesAgain) {
  World world(7);
  const auto in_group = [](const std::string& name) {
    wire::Request request = allreduce(name);
    request.group = "g";
    request.group_size = 2;
    return request;
  };
  world.node(3).submit({{1, in_group("x"), {}}, {2, in_group("y"), {}}}, 0);
  for (int rank : {1, 4}) world.submit(rank, 2, allreduce("y"));
  world.settle();
  for (int rank : {0, 1, 2, 4, 5, 6}) world.submit(rank, 1, allreduce("x"));
  world.settle();
  ASSERT_EQ(world.output(3).completions.size(), 2U);
  ASSERT_EQ(world.output(4).completions.size(), 1U);
  for (int rank : {0, 2, 5, 6}) world.submit(rank, 2, allreduce("y"));
  world.settle();
  EXPECT_TRUE(world.output(0).executions.empty());
  world.submit(3, 3, allreduce("y"));
  world.settle();
  for (int rank = 0; rank < 7; ++rank) {
    ASSERT_EQ(world.output(rank).executions.size(), 1U) << rank;
    EXPECT_EQ(world.output(rank).executions[0].tickets.at(0), rank == 3 ? 3U : 2U);
  }
}

TEST(Node, ExchangeGivesEveryRankEverybodysBytes) {
  World world(3);
  for (int rank = 0; rank < 3; ++rank) {
    wire::Request request;
    request.kind = OpKind::kExchange;
    request.name = "e";
    world.node(rank).submit(
        {{1, request, wire::Bytes(static_cast<size_t>(rank), static_cast<std::byte>(rank))}}, 0);
  }
  world.settle();
  for (int rank = 0; rank < 3; ++rank) {
    ASSERT_EQ(world.output(rank).completions.size(), 1U);
    const auto& payloads = world.output(rank).completions[0].payloads;
    ASSERT_EQ(payloads.size(), 3U);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(payloads[i].size(), i);
  }
}

TEST(Node, ALostRankIsNamedEverywhere) {
  World world(7);
  world.submit(3, 1, allreduce("w"));
  world.node(2).peer_closed(5, "connection reset by peer", 0);
  world.settle();
  for (int rank : {0, 1, 2, 3, 4, 6}) {
    ASSERT_TRUE(world.output(rank).fault.has_value()) << rank;
    EXPECT_EQ(world.output(rank).fault->code(), StatusCode::kPeerLost);
    EXPECT_EQ(world.output(rank).fault->lost_rank(), 5);
  }
  ASSERT_EQ(world.output(3).completions.size(), 1U);
  EXPECT_EQ(world.output(3).completions[0].status.lost_rank(), 5);
  // And what is submitted afterwards fails the same way, at once.
  world.submit(3, 2, allreduce("v"));
  world.settle();
  ASSERT_EQ(world.output(3).completions.size(), 2U);
  EXPECT_EQ(world.output(3).completions[1].status.code(), StatusCode::kPeerLost);
}

TEST(Node, ShutdownCompletesWhatOthersWaitFor) {
  World world(3);
  world.submit(2, 1, allreduce("w"));
  world.settle();
  world.node(1).leave("done", 0);
  world.settle();
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_TRUE(world.output(rank).shutdown);
    world.node(rank).drained(0);
  }
  ASSERT_EQ(world.output(2).completions.size(), 1U);
  EXPECT_EQ(world.output(2).completions[0].status.code(), StatusCode::kShutdown);
  world.settle();
  for (int rank = 0; rank < 3; ++rank) EXPECT_TRUE(world.output(rank).goodbye);
}

// ---- frames that no correct neighbour sends ----

struct Bogus {
  const char* what;
  int from;
  wire::Message message;
};

// A node of rank 1 of 7 with fan-in 2: parent 0, children 3 and 4.
class BogusFrame : public testing::TestWithParam<Bogus> {};

TEST_P(BogusFrame, IsAFaultThatNamesTheSender) {
  NodeOptions options;
  options.rank = 1;
  options.size = 7;
  options.fan_in = 2;
  options.epoch = 3;
  Node node(options);
  node.submit({{1, allreduce("w"), {}}}, 0);
  node.receive(GetParam().from, {3, GetParam().message}, 0);
  const Output output = node.tick(0);
  ASSERT_TRUE(output.fault.has_value());
  EXPECT_EQ(output.fault->code(), StatusCode::kInternal);
  EXPECT_THAT(output.fault->message(), HasSubstr("rank " + std::to_string(GetParam().from) + " "));
  ASSERT_EQ(output.completions.size(), 1U);
  EXPECT_TRUE(output.executions.empty());
}

wire::Report report_of(wire::Contribution contribution) {
  wire::Report report;
  report.contributions.push_back(std::move(contribution));
  return report;
}

wire::Report joined_report(RankSet ranks) {
  wire::Report report;
  report.joined = std::move(ranks);
  return report;
}

wire::Contribution by(RankSet ranks, wire::Request request = allreduce("v")) {
  wire::Contribution contribution;
  contribution.request = std::move(request);
  contribution.ranks = std::move(ranks);
  return contribution;
}

wire::Request of_kind(OpKind kind) {
  wire::Request request = allreduce("v");
  request.kind = kind;
  return request;
}

wire::Request of_set(ProcessSetId set) {
  wire::Request request = allreduce("v");
  request.process_set = set;
  return request;
}

wire::Decision decision_of(wire::Response response, uint64_t sequence = 1) {
  wire::Decision decision;
  decision.sequence = sequence;
  decision.responses.push_back(std::move(response));
  return decision;
}

wire::Response response_of(std::vector<wire::ResponseTensor> tensors) {
  wire::Response response;
  response.tensors = std::move(tensors);
  return response;
}

wire::Response in_set(ProcessSetId set, wire::Response response) {
  response.process_set = set;
  return response;
}

wire::Request transfer_of_others() {
  wire::Request request = of_kind(OpKind::kSendRecv);
  request.root_rank = 0;
  request.peer = 2;
  return request;
}

wire::Response ids_response(std::vector<uint64_t> ids) {
  wire::Response response;
  response.cache_ids = std::move(ids);
  return response;
}

INSTANTIATE_TEST_SUITE_P(
    Frames, BogusFrame,
    testing::Values(
        Bogus{"a decision out of sequence", 0, decision_of(response_of({}), 2)},
        Bogus{"an unknown cache id", 0, decision_of(ids_response({77}))},
        Bogus{"a tensor never submitted", 0, decision_of(response_of({{allreduce("x"), {}, {}}}))},
        Bogus{"an operation without tensors", 0, decision_of(response_of({}))},
        Bogus{"another shape than submitted", 0,
              decision_of(response_of({{of_kind(OpKind::kAllgather), {}, {}}}))},
        Bogus{"a response of an unknown process set", 0,
              decision_of(in_set(9, response_of({{of_set(9), {}, {}}})))},
        Bogus{"a response of two process sets", 0, decision_of(response_of({{of_set(9), {}, {}}}))},
        Bogus{"rows of others where there are none", 0,
              decision_of(response_of({{transfer_of_others(), {5}, {}}}))},
        Bogus{"a report from the parent", 0, wire::Report()},
        Bogus{"a decision from a child", 3, wire::Decision()},
        Bogus{"a query from a child", 4, wire::StallQuery()},
        Bogus{"a stranger", 5, wire::Report()},
        Bogus{"another's ranks", 3, report_of(by(RankSet::single(4)))},
        Bogus{"no ranks", 3, report_of(by(RankSet()))},
        Bogus{"ranks that do not exist", 3, report_of(by(RankSet::range(3, 1000000)))},
        Bogus{"an allgather without extents", 3,
              report_of(by(RankSet::single(3), of_kind(OpKind::kAllgather)))},
        Bogus{"an exchange without bytes", 3,
              report_of(by(RankSet::single(3), of_kind(OpKind::kExchange)))},
        Bogus{"an unknown process set", 3, report_of(by(RankSet::single(3), of_set(9)))},
        Bogus{"decisions not made yet", 3, wire::Report{5, {}, {}, {}, {}, {}, -1, false}},
        Bogus{"a join in the name of others", 3, joined_report(RankSet::single(4))},
        Bogus{"a join as a contribution", 3,
              report_of(by(RankSet::single(3), of_kind(OpKind::kJoin)))},
        Bogus{"a send to itself", 3, report_of(by(RankSet::single(3), of_kind(OpKind::kSendRecv)))},
        Bogus{"an unknown id", 3, wire::Report{0, {7}, {}, {}, {}, {}, -1, false}},
        Bogus{"an answer for another's rank", 3, wire::StallAnswer{1, 6, "", 0, 0, 0}}),
    [](const auto& instance) {
      std::string name = instance.param.what;
      for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
      return name;
    });

TEST(Node, FramesOfAnotherEpochAreDropped) {
  NodeOptions options;
  options.size = 2;
  options.epoch = 3;
  Node node(options);
  node.receive(1, {2, wire::Decision()}, 0);
  node.receive(1, {4, wire::Fault{StatusCode::kPeerLost, 1, "old"}}, 0);
  EXPECT_FALSE(node.tick(0).fault.has_value());
}

// Submits exchanges that fill several frames.
void submit_much(World& world, int size, uint64_t count) {
  const wire::Bytes payload(wire::Limits::kMaxPayloadBytes);
  for (uint64_t ticket = 1; ticket <= count; ++ticket) {
    wire::Request request;
    request.kind = OpKind::kExchange;
    request.name = std::to_string(ticket);
    for (int rank = 0; rank < size; ++rank) {
      world.node(rank).submit({{ticket, request, payload}}, 0);
    }
  }
}

void expect_all_well(const Output& output, uint64_t count, size_t size) {
  ASSERT_EQ(output.completions.size(), count);
  for (const Completion& completion : output.completions) {
    EXPECT_TRUE(completion.status.ok()) << completion.status.message();
    EXPECT_EQ(completion.payloads.size(), size);
  }
}

TEST(Node, MuchAtOnceTravelsInSeveralFrames) {
  World world(3, 1);
  submit_much(world, 3, 640);  // 80 MiB to the root, 120 MiB from it
  world.settle();
  for (int rank = 0; rank < 3; ++rank) expect_all_well(world.output(rank), 640, 3);
  EXPECT_GT(world.largest_frame(), wire::Limits::kFullFrameBytes);
  EXPECT_LT(world.largest_frame(), 2 * wire::Limits::kFullFrameBytes);
}

TEST(Node, AShutdownWaitsForAllThatIsAgreed) {
  World world(1);
  submit_much(world, 1, 640);
  world.node(0).leave("over", 0);
  world.settle();
  expect_all_well(world.output(0), 640, 1);
  EXPECT_TRUE(world.output(0).shutdown);
}

}  // namespace
}  // namespace khorus::protocol
