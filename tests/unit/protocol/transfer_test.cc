// Sends between two ranks, in small worlds without delays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "tests/unit/protocol/small_world.h"

namespace khorus::protocol {
namespace {

using testing::HasSubstr;

TEST(SendRecv, TakesTheTwoAlone) {
  World world(7);
  for (int round = 0; round < 2; ++round) {
    world.submit(6, 1 + static_cast<uint64_t>(round), send(6, 3));
    world.submit(3, 1 + static_cast<uint64_t>(round), send(6, 3));
    world.settle();
  }
  for (int rank = 0; rank < 7; ++rank) {
    EXPECT_EQ(world.output(rank).executions.size(), rank == 3 || rank == 6 ? 2U : 0U) << rank;
  }
  EXPECT_EQ(world.node(6).stats().submitted_from_cache, 1U);
}

// A name belongs to the two alone: neither what all ranks do under it nor another two's transfer is
// in its way, and nothing of it is a fault.
TEST(SendRecv, OfTheNameOfAnotherOperationIsAnotherOperation) {
  World world(7);
  for (int rank : {0, 1, 4}) world.submit(rank, 1, allreduce("x"));
  const auto move = [](int from, int to) {
    wire::Request request = send(from, to);
    request.name = "x";
    return request;
  };
  for (int rank : {2, 3}) world.submit(rank, 1, move(2, 3));
  for (int rank : {3, 6}) world.submit(rank, 2, move(6, 3));
  world.settle();
  EXPECT_EQ(world.output(2).executions.size(), 1U);
  EXPECT_EQ(world.output(3).executions.size(), 2U);
  for (int rank : {2, 3, 5, 6}) world.submit(rank, 3, allreduce("x"));
  world.settle();
  for (int rank = 0; rank < 7; ++rank) {
    EXPECT_FALSE(world.output(rank).executions.empty()) << rank;
    EXPECT_TRUE(world.output(rank).completions.empty()) << rank;
    EXPECT_FALSE(world.output(rank).fault.has_value()) << rank;
    EXPECT_EQ(world.node(rank).state_digest(), world.node(0).state_digest());
  }
}

// ---- on a device ----

wire::Request on_device(wire::Request request) {
  request.device = DeviceKind::kCuda;
  return request;
}

// Of executions, by rank, those to meet for and the others.
std::pair<size_t, size_t> met_and_run(World& world, int rank) {
  const auto& executions = world.output(rank).executions;
  const auto met = static_cast<size_t>(
      std::count_if(executions.begin(), executions.end(), [](const Execution& execution) {
        EXPECT_EQ(execution.tickets.empty(), execution.meets_only);
        return execution.meets_only;
      }));
  return {met, executions.size() - met};
}

// The ranks that make a communicator there make it together: the others are told of the first one.
TEST(SendRecvOnADevice, IsMetByAllOfItsSetWhereItIsTheFirst) {
  World world(5);
  for (uint64_t round = 1; round <= 2; ++round) {
    for (int rank : {1, 4}) world.submit(rank, round, on_device(send(1, 4)));
    world.settle();
  }
  for (int rank = 0; rank < 5; ++rank) {
    const bool runs = rank == 1 || rank == 4;
    EXPECT_EQ(met_and_run(world, rank), runs ? std::pair(0UL, 2UL) : std::pair(1UL, 0UL)) << rank;
    const Execution& first = world.output(rank).executions.front();
    EXPECT_EQ(first.sequence, world.output(1).executions.front().sequence);
    EXPECT_EQ(first.response.tensors, world.output(1).executions.front().response.tensors);
  }
  // They are on everybody's data plane until they are over.
  for (int rank = 0; rank < 5; ++rank) {
    world.node(rank).executions_finished(rank == 1 || rank == 4 ? 2 : 1, 0);
  }
}

TEST(SendRecvOnADevice, IsNobodyElsesBusinessAfterAnotherOperationThere) {
  World world(3);
  world.submit_everywhere(1, on_device(allreduce("w")));
  world.settle();
  for (int rank : {0, 2}) world.submit(rank, 2, on_device(send(2, 0)));
  world.settle();
  EXPECT_EQ(met_and_run(world, 1), std::pair(0UL, 1UL));
}

TEST(SendRecvOnADevice, IsNotMetWhereItIsOnTheCpuOrHasFailed) {
  World world(3);
  for (int rank : {0, 2}) world.submit(rank, 1, send(2, 0));
  world.submit(0, 2, on_device(send(0, 2)));
  world.submit(2, 2, on_device(send(0, 2, 5)));  // another shape
  world.settle();
  EXPECT_EQ(completion_of(world, 0, 2).status.code(), StatusCode::kMismatch);
  EXPECT_EQ(met_and_run(world, 1), std::pair(0UL, 0UL));
  for (int rank : {0, 2}) world.submit(rank, 3, on_device(send(0, 2)));
  world.settle();
  EXPECT_EQ(met_and_run(world, 1), std::pair(1UL, 0UL));
}

// Several of different pairs that are agreed at once: one place, the same for all.
TEST(SendRecvOnADevice, IsMetOnceByRanksThatHaveTheirOwn) {
  World world(4);
  for (int rank : {0, 1}) world.submit(rank, 1, on_device(send(0, 1)));
  for (int rank : {2, 3}) world.submit(rank, 1, on_device(send(3, 2)));
  world.settle();
  size_t met = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const Execution& first = world.output(rank).executions.front();
    EXPECT_EQ(std::pair(first.sequence, first.index),
              std::pair(world.output(0).executions.front().sequence,
                        world.output(0).executions.front().index));
    met += met_and_run(world, rank).first;
    EXPECT_EQ(met_and_run(world, rank).second, 1U);
  }
  EXPECT_EQ(met, 2U);
}

// The members of the set alone; a joined one, too; and again in another set.
TEST(SendRecvOnADevice, IsMetByTheMembersOfItsSet) {
  World world(4);
  const auto add = [&](uint64_t ticket, const wire::RankSet& members) {
    wire::Request request;
    request.kind = OpKind::kAddProcessSet;
    request.name = "add";
    request.members = members;
    world.submit_everywhere(ticket, request);
    world.settle();
    return static_cast<ProcessSetId>(completion_of(world, 0, ticket).value);
  };
  for (uint64_t ticket : {10U, 20U}) {
    wire::Request request = on_device(send(0, 2));
    request.process_set = add(ticket, wire::RankSet::of({0, 1, 2}));
    if (ticket == 20U) {
      wire::Request join;
      join.kind = OpKind::kJoin;
      world.submit(1, 21, join);
    }
    for (int rank : {0, 2}) world.submit(rank, ticket + 2, request);
    world.settle();
    EXPECT_EQ(met_and_run(world, 1), std::pair(ticket / 10, 0UL));
    EXPECT_EQ(met_and_run(world, 3), std::pair(0UL, 0UL));
  }
}

// ---- mismatches ----

TEST(SendRecv, InBothDirectionsIsAMismatchThatNamesThePeers) {
  World world(4);
  for (const auto& [rank, peer] : {std::pair(1, 3), std::pair(3, 1)}) {
    wire::Request request = send(rank, peer);
    request.name = "x";
    world.submit(rank, 1, request);
  }
  world.settle();
  for (int rank : {1, 3}) {
    const Status& status = completion_of(world, rank, 1).status;
    EXPECT_EQ(status.code(), StatusCode::kMismatch);
    EXPECT_THAT(status.message(), HasSubstr("root rank 1 on rank 1 and 3 on rank 3"));
    EXPECT_THAT(status.message(), HasSubstr("peer rank 3 on rank 1 and 1 on rank 3"));
    world.submit(rank, 2, allreduce("w"));  // the engine is of use yet
  }
  for (int rank : {0, 2}) world.submit(rank, 2, allreduce("w"));
  world.settle();
  for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(world.output(rank).executions.size(), 1U);
}

TEST(SendRecv, OfDifferentShapesIsAMismatchOfTheTwo) {
  World world(3);
  world.submit(1, 1, send(1, 2, 4));
  world.submit(2, 1, send(1, 2, 5));
  world.settle();
  EXPECT_EQ(completion_of(world, 1, 1).status.code(), StatusCode::kMismatch);
  EXPECT_EQ(completion_of(world, 2, 1).status.message(),
            completion_of(world, 1, 1).status.message());
  world.submit(0, 1, send(1, 2));
  world.settle();
  EXPECT_EQ(completion_of(world, 0, 1).status.code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace khorus::protocol
