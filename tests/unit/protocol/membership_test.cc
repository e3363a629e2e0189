// Joins and process sets, in small worlds without delays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/protocol/small_world.h"

namespace khorus::protocol {
namespace {

using testing::HasSubstr;
using wire::RankSet;

wire::Request of_kind(OpKind kind, const std::string& name) {
  wire::Request request = allreduce(name);
  request.kind = kind;
  return request;
}

wire::Request join() {
  wire::Request request;
  request.kind = OpKind::kJoin;
  return request;
}

wire::Request add_set(const RankSet& members) {
  wire::Request request;
  request.kind = OpKind::kAddProcessSet;
  request.name = "add";
  request.members = members;
  return request;
}

wire::Request remove_set(ProcessSetId id) {
  wire::Request request;
  request.kind = OpKind::kRemoveProcessSet;
  request.name = "remove";
  request.shape = {id};
  return request;
}

wire::Request in_set(ProcessSetId id, const std::string& name) {
  wire::Request request = allreduce(name);
  request.process_set = id;
  return request;
}

TEST(Join, JoinedRanksTakePartWithoutATicket) {
  World world(7);
  for (int rank : {3, 5}) world.submit(rank, 1, join());
  world.settle();
  for (int round = 0; round < 2; ++round) {  // the second from the cache
    for (int rank : {0, 1, 2, 4, 6}) {
      world.submit(rank, 10 + static_cast<uint64_t>(round), allreduce("w"));
    }
    world.settle();
  }
  for (int rank = 0; rank < 7; ++rank) {
    const bool is_joined = rank == 3 || rank == 5;
    ASSERT_EQ(world.output(rank).executions.size(), 2U) << rank;
    for (size_t round = 0; round < 2; ++round) {
      EXPECT_EQ(world.output(rank).executions[round].tickets.at(0), is_joined ? 0 : 10 + round);
    }
  }
  EXPECT_EQ(world.node(3).state_digest(), world.node(0).state_digest());
}

TEST(Join, EndsWhenAllHaveJoinedAndNamesTheLast) {
  World world(5);
  for (int rank : {4, 0, 3, 1}) {
    world.submit(rank, 1, join());
    world.settle();
  }
  EXPECT_TRUE(world.output(4).completions.empty());
  world.submit(2, 1, join());
  world.settle();
  for (int rank = 0; rank < 5; ++rank) {
    EXPECT_TRUE(completion_of(world, rank, 1).status.ok());
    EXPECT_EQ(completion_of(world, rank, 1).value, 2);
  }
  world.submit_everywhere(2, allreduce("after"));  // and all go on
  world.settle();
  for (int rank = 0; rank < 5; ++rank) EXPECT_EQ(world.output(rank).executions.size(), 1U);
}

TEST(Join, WhatWaitsForTheJoiningRankGoesOn) {
  World world(4, 1);
  for (int rank : {0, 1, 2}) world.submit(rank, 1, allreduce("w"));
  world.settle();
  EXPECT_TRUE(world.output(0).executions.empty());
  world.submit(3, 1, join());
  world.settle();
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(world.output(rank).executions.size(), 1U);
}

TEST(Join, WhatTheLastOneJoinsIntoRunsBeforeTheEnd) {
  World world(2);
  world.submit(0, 1, allreduce("w"));
  world.submit(0, 2, join());
  world.submit(1, 1, join());
  world.settle();
  EXPECT_EQ(world.output(0).executions.size(), 1U);
  EXPECT_EQ(world.output(1).executions.size(), 1U);
  EXPECT_TRUE(completion_of(world, 0, 2).status.ok());
}

TEST(Join, AllgathersHaveNoRowsOfJoinedRanks) {
  World world(3);
  world.submit(1, 1, join());
  for (int rank : {0, 2}) world.submit(rank, 2, of_kind(OpKind::kAllgather, "rows"));
  world.settle();
  const auto& tensor = world.output(1).executions.at(0).response.tensors.at(0);
  EXPECT_EQ(tensor.extents, (std::vector<int64_t>{4, 0, 4}));
}

TEST(Join, RefusesWhatZerosWouldSpoil) {
  World world(3);
  world.submit(1, 1, join());
  wire::Request max = allreduce("max");
  max.op = ReduceOp::kMax;
  wire::Request broadcast = of_kind(OpKind::kBroadcast, "from joined");
  broadcast.root_rank = 1;
  for (int rank : {0, 2}) {
    world.submit(rank, 2, max);
    world.submit(rank, 3, broadcast);
    world.submit(rank, 4, add_set(RankSet::of({0, 2})));
  }
  world.submit(0, 5, send(0, 1));
  world.settle();
  for (int rank : {0, 2}) {
    EXPECT_THAT(completion_of(world, rank, 2).status.message(), HasSubstr("rank 1"));
    EXPECT_THAT(completion_of(world, rank, 3).status.message(), HasSubstr("rank 1"));
    EXPECT_THAT(completion_of(world, rank, 4).status.message(), HasSubstr("rank 1"));
  }
  EXPECT_THAT(completion_of(world, 0, 5).status.message(), HasSubstr("rank 1"));
  EXPECT_FALSE(world.output(0).fault.has_value());
}

// Rank 2 has joined and rank 1 does nothing: that is told. While rank 1 is busy, it is not.
TEST(Join, AWaitForOneThatDoesNotJoinIsReported) {
  NodeOptions options;
  options.size = 2;
  options.stall_warning_us = 1000;
  Node root(options);
  const auto run_until = [&](TimeUs end, TimeUs now) {
    std::string reports;
    while (now <= end) {
      for (const LogLine& line : root.tick(now).log) reports += line.text;
      now = root.next_deadline();
    }
    return reports;
  };
  EXPECT_EQ(root.next_deadline(), kNever);
  root.submit({{1, join(), {}}}, 0);
  root.tick(0);
  const auto from_child = [&](const std::string& name, TimeUs now) {
    wire::Report report;
    wire::Contribution& contribution = report.contributions.emplace_back();
    contribution.request = allreduce(name);
    contribution.ranks = RankSet::single(1);
    root.receive(1, {0, report}, now);
    EXPECT_EQ(root.tick(now).executions.size(), 1U);
    root.executions_finished(1, now + 100);
  };
  from_child("a", 500);
  EXPECT_EQ(run_until(1300, 600), "");
  from_child("b", 1300);
  EXPECT_EQ(run_until(2100, 1400), "");
  EXPECT_THAT(run_until(2400, 2100),
              HasSubstr("join has waited 0.0 s for rank 1, joined by rank 0. rank 1 has not"));
}

// Rank 2 has another member in its group than the others, and joins: what it has not submitted
// would run without it, and its own member would wait for ever.
TEST(Join, AGroupWithOtherMembersFailsAlthoughItsRankHasJoined) {
  World world(3);
  const auto in_group = [](const std::string& name) {
    wire::Request request = allreduce(name);
    request.group = "g";
    request.group_size = 2;
    return request;
  };
  world.node(2).submit({{1, in_group("x"), {}}, {2, in_group("z"), {}}}, 0);
  world.submit(2, 3, join());
  for (int rank : {0, 1}) {
    world.node(rank).submit({{1, in_group("x"), {}}, {2, in_group("y"), {}}}, 0);
  }
  world.settle();
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_TRUE(world.output(rank).executions.empty());
    for (uint64_t ticket : {1, 2}) {
      EXPECT_THAT(completion_of(world, rank, ticket).status.message(),
                  HasSubstr("group \"g\": rank 2 submitted allreduce \"x\" and joined without "
                            "allreduce \"y\""));
    }
  }
}

TEST(Join, AJoinedRankSubmitsNothing) {
  World world(2);
  world.submit(0, 1, join());
  world.submit(0, 2, allreduce("w"));
  world.submit(0, 3, join());
  world.settle();
  EXPECT_EQ(completion_of(world, 0, 2).status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(completion_of(world, 0, 3).status.message(), HasSubstr("has joined"));
}

TEST(ProcessSets, AreAddedWithTheSameIdAndUsedByTheirMembers) {
  World world(6);
  world.submit_everywhere(1, add_set(RankSet::of({1, 4, 5})));
  world.settle();
  for (int rank = 0; rank < 6; ++rank) EXPECT_EQ(completion_of(world, rank, 1).value, 1);
  ASSERT_EQ(world.output(4).set_changes.size(), 1U);
  EXPECT_TRUE(world.output(4).set_changes[0].added);
  EXPECT_TRUE(world.output(0).set_changes.empty());
  for (int rank : {1, 4, 5}) world.submit(rank, 2, in_set(1, "w"));
  world.submit(0, 2, in_set(1, "w"));
  world.settle();
  for (int rank : {1, 4, 5}) EXPECT_EQ(world.output(rank).executions.size(), 1U);
  EXPECT_TRUE(world.output(0).executions.empty());
  EXPECT_THAT(completion_of(world, 0, 2).status.message(), HasSubstr("not in process set 1"));
}

TEST(ProcessSets, OtherRanksOnOtherRanksIsAMismatch) {
  World world(3);
  for (int rank = 0; rank < 3; ++rank) {
    world.submit(rank, 1, add_set(RankSet::of({0, rank == 2 ? 2 : 1})));
  }
  world.settle();
  for (int rank = 0; rank < 3; ++rank) {
    const Status& status = completion_of(world, rank, 1).status;
    EXPECT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_THAT(status.message(), HasSubstr("0,2 on rank 2"));
  }
}

TEST(ProcessSets, RemovalEndsWhatIsNotAgreed) {
  World world(7);
  world.submit_everywhere(1, add_set(RankSet::of({3, 6})));
  world.settle();
  world.submit(3, 2, in_set(1, "lonely"));
  world.settle();
  world.submit_everywhere(3, remove_set(1));
  world.settle();
  EXPECT_EQ(completion_of(world, 3, 2).status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(completion_of(world, 3, 2).status.message(), HasSubstr("lonely"));
  EXPECT_FALSE(world.output(6).set_changes.back().added);
  world.submit(3, 4, in_set(1, "late"));
  world.settle();
  EXPECT_THAT(completion_of(world, 3, 4).status.message(), HasSubstr("no process set 1 any more"));
  world.submit_everywhere(5, remove_set(1));
  world.settle();
  EXPECT_FALSE(completion_of(world, 0, 5).status.ok());
  world.submit_everywhere(6, remove_set(kGlobalProcessSet));
  world.settle();
  EXPECT_FALSE(completion_of(world, 0, 6).status.ok());
  world.submit_everywhere(7, add_set(RankSet::of({0})));
  world.settle();
  EXPECT_EQ(completion_of(world, 2, 7).value, 2) << "ids are not used again";
  EXPECT_FALSE(world.output(0).fault.has_value());
}

TEST(ProcessSets, AnIdThatIsNoneIsRefusedOnAllRanks) {
  World world(3);
  world.submit_everywhere(1, add_set(RankSet::of({0, 1})));
  world.settle();
  wire::Request wide = remove_set(1);
  wide.shape = {(int64_t{1} << 32) + 1};  // 1, if it were cut to 32 bits
  world.submit_everywhere(2, wide);
  world.settle();
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(completion_of(world, rank, 2).status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(completion_of(world, rank, 2).status.message(),
                HasSubstr("there is no process set 4294967297"));
  }
  for (int rank : {0, 1}) world.submit(rank, 3, in_set(1, "w"));
  world.settle();
  EXPECT_EQ(world.output(1).executions.size(), 1U);
}

TEST(ProcessSets, ChangesThatSayNothingAreRefused) {
  World world(3);
  wire::Request unsaid = remove_set(1);
  unsaid.shape.clear();
  world.submit(0, 1, unsaid);
  world.submit(0, 2, add_set(RankSet()));
  world.submit(0, 3, add_set(RankSet::of({1, 3})));
  world.settle();
  for (uint64_t ticket : {1, 2, 3}) {
    EXPECT_EQ(completion_of(world, 0, ticket).status.code(), StatusCode::kInvalidArgument);
  }
  for (const wire::Request& request : {unsaid, add_set(RankSet::of({1, 3}))}) {
    NodeOptions options;
    options.size = 3;
    Node root(options);
    wire::Report report;
    wire::Contribution& contribution = report.contributions.emplace_back();
    contribution.request = request;
    contribution.ranks = RankSet::single(1);
    root.receive(1, {0, report}, 0);
    EXPECT_THAT(root.tick(0).fault->message(), HasSubstr("malformed"));
  }
}

// The report of rank 3 is under way when the set is removed.
TEST(ProcessSets, AReportThatCrossesTheRemovalIsIgnored) {
  NodeOptions options;
  options.rank = 0;
  options.size = 2;
  Node root(options);
  const auto from_child = [&](const wire::Request& request, uint64_t applied) {
    wire::Report report;
    report.applied_sequence = applied;
    wire::Contribution& contribution = report.contributions.emplace_back();
    contribution.request = request;
    contribution.ranks = RankSet::single(1);
    root.receive(1, {0, report}, 0);
  };
  root.submit({{1, add_set(RankSet::of({0, 1})), {}}}, 0);
  from_child(add_set(RankSet::of({0, 1})), 0);
  root.tick(0);
  root.submit({{2, remove_set(1), {}}}, 0);
  from_child(remove_set(1), 1);
  root.tick(0);
  from_child(in_set(1, "w"), 1);
  EXPECT_FALSE(root.tick(0).fault.has_value());
  from_child(in_set(2, "w"), 1);
  EXPECT_TRUE(root.tick(0).fault.has_value());
}

}  // namespace
}  // namespace khorus::protocol
