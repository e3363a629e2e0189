// Sends between two ranks, in small worlds without delays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
