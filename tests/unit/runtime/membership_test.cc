// Process sets and joins through the engine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

using testing::HasSubstr;

class Membership : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(Runtime, Membership, testing::ValuesIn(transports()),
                         testing::PrintToStringParamName());

float sum_on(Engine& engine, ProcessSetId set, const std::string& name, float value) {
  std::vector<float> data(300, value);
  AllreduceOptions options = with(ReduceOp::kSum);
  options.process_set = set;
  const Status status = engine.allreduce_async(name, view_of(data), view_of(data), options)->wait();
  EXPECT_TRUE(status.ok()) << status.to_string();
  return data[299];
}

TEST_P(Membership, SetsReduceAmongTheirRanks) {
  Ranks(4, GetParam()).run([&](Engine& engine) {
    const int rank = engine.rank();
    const auto even = engine.add_process_set({0, 2});
    const auto odd = engine.add_process_set({1, 3});
    const auto three = engine.add_process_set({0, 1, 3});
    ASSERT_TRUE(even.ok() && odd.ok() && three.ok());
    EXPECT_EQ(*even, 1);
    EXPECT_EQ(*odd, 2);
    EXPECT_EQ(engine.process_set_ranks(*three).value(), (std::vector<int>{0, 1, 3}));
    for (int round = 0; round < 5; ++round) {
      EXPECT_EQ(sum_on(engine, rank % 2 == 0 ? *even : *odd, "pair", static_cast<float>(rank)),
                rank % 2 == 0 ? 2 : 4);
      if (rank != 2) {
        EXPECT_EQ(sum_on(engine, *three, "three", static_cast<float>(rank)), 4);
      }
      EXPECT_EQ(sum_on(engine, kGlobalProcessSet, "all", 1), 4);
    }
    // Ranks are global in every set.
    if (rank % 2 == 1) {
      std::vector<float> data(2, static_cast<float>(rank));
      const Status status =
          engine.broadcast_async("b", view_of(data), view_of(data), 3, *odd)->wait();
      EXPECT_TRUE(status.ok()) << status.to_string();
      EXPECT_EQ(data[1], 3);
      const WorkPtr gathered = engine.allgather_async("g", view_of(data), *odd);
      EXPECT_TRUE(gathered->wait().ok());
      EXPECT_EQ(gathered->first_extents(), (std::vector<int64_t>{2, 2}));
      const WorkPtr transfer = rank == 3 ? engine.send_async(view_of(data), 1, 0, *odd)
                                         : engine.recv_async(view_of(data), 3, 0, *odd);
      EXPECT_TRUE(transfer->wait().ok());
      EXPECT_TRUE(engine.barrier_async("", *odd)->wait().ok());
    } else {
      std::vector<float> data(2);
      const Status status =
          engine.broadcast_async("b", view_of(data), view_of(data), 0, *odd)->wait();
      EXPECT_THAT(status.message(), HasSubstr("is not in process set 2 [1,3]"));
    }
    EXPECT_TRUE(engine.barrier_async()->wait().ok());
  });
}

// One set's operation waits for a rank; the other sets' go on meanwhile.
TEST_P(Membership, SetsDoNotWaitForEachOther) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    const ProcessSetId pair = engine.add_process_set({0, 1}).value();
    std::vector<float> late(10, 1);
    WorkPtr waiting;
    if (engine.rank() == 0) {
      AllreduceOptions options;
      options.process_set = pair;
      waiting = engine.allreduce_async("late", view_of(late), view_of(late), options);
    }
    for (int i = 0; i < 10; ++i) EXPECT_EQ(sum_on(engine, kGlobalProcessSet, "all", 1), 3);
    if (engine.rank() == 1) sum_on(engine, pair, "other", 1);
    if (engine.rank() == 0) {
      EXPECT_FALSE(waiting->poll());
      sum_on(engine, pair, "other", 1);
    }
    if (engine.rank() == 1) {
      AllreduceOptions options;
      options.process_set = pair;
      waiting = engine.allreduce_async("late", view_of(late), view_of(late), options);
    }
    if (waiting != nullptr) {
      EXPECT_TRUE(waiting->wait().ok());
    }
    EXPECT_TRUE(engine.barrier_async()->wait().ok());
  });
}

TEST_P(Membership, ARemovedSetIsGone) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    for (int round = 0; round < 3; ++round) {
      const ProcessSetId set = engine.add_process_set({1, 2}).value();
      EXPECT_EQ(set, round + 1);
      if (engine.rank() > 0) {
        EXPECT_EQ(sum_on(engine, set, "x", 1), 2);
      }
      WorkPtr lonely;
      std::vector<float> data(4);
      AllreduceOptions options;
      options.process_set = set;
      if (engine.rank() == 2) {
        lonely = engine.allreduce_async("lonely", view_of(data), view_of(data), options);
      }
      const Status removed = engine.remove_process_set(set);
      EXPECT_TRUE(removed.ok()) << removed.to_string();
      if (lonely != nullptr) {
        EXPECT_THAT(lonely->wait().message(), HasSubstr("was removed"));
      }
      const Status late =
          engine.allreduce_async("late", view_of(data), view_of(data), options)->wait();
      EXPECT_THAT(late.message(), HasSubstr("does not exist"));
      EXPECT_FALSE(engine.process_set_ranks(set).ok());
    }
    EXPECT_EQ(engine.remove_process_set(1).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(engine.remove_process_set(0).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(sum_on(engine, kGlobalProcessSet, "all", 1), 3);
  });
}

TEST_P(Membership, SetsGivenAtTheStart) {
  Ranks(3, GetParam(), [](EngineOptions* options) {
    options->process_sets = {{0, 1}, {1, 2}};
  }).run([&](Engine& engine) {
    if (engine.rank() > 0) {
      EXPECT_EQ(sum_on(engine, 2, "x", 1), 2);
    }
    if (engine.rank() < 2) {
      EXPECT_EQ(sum_on(engine, 1, "y", 1), 2);
    }
    EXPECT_TRUE(engine.barrier_async()->wait().ok());
  });
}

TEST_P(Membership, DifferentSetsAreRefusedOnAllRanks) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    const auto added = engine.add_process_set({0, engine.rank() == 1 ? 1 : 2});
    ASSERT_FALSE(added.ok());
    EXPECT_EQ(added.status().code(), StatusCode::kMismatch);
    EXPECT_THAT(added.status().message(), HasSubstr("0,1 on rank 1"));
    for (const std::vector<int>& wrong :
         std::vector<std::vector<int>>{{}, {1, 0}, {0, 0}, {0, 3}, {-1}}) {
      EXPECT_EQ(engine.add_process_set(wrong).status().code(), StatusCode::kInvalidArgument);
    }
    const auto good = engine.add_process_set({0, 2});
    ASSERT_TRUE(good.ok()) << good.status().to_string();
    EXPECT_EQ(*good, 1);
  });
}

TEST_P(Membership, JoinedRanksGiveZeros) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    const int steps = 4 + 3 * engine.rank();  // uneven inputs: rank 2 has the most
    for (int step = 0; step < steps; ++step) {
      std::vector<float> mean(50, 3), rows(2, static_cast<float>(engine.rank()));
      std::vector<float> parts(6, 1), scattered(6, 1);
      const std::vector<WorkPtr> works{
          engine.allreduce_async("mean", view_of(mean), view_of(mean), with(ReduceOp::kAverage)),
          engine.allgather_async("rows", view_of(rows)),
          engine.alltoall_async("parts", view_of(parts)),
          engine.reducescatter_async("scattered", view_of(scattered), with(ReduceOp::kSum))};
      ASSERT_TRUE(wait_all(works).ok()) << wait_all(works).to_string();
      const int present = 1 + (step < 7 ? 1 : 0) + (step < 4 ? 1 : 0);
      EXPECT_EQ(mean[0], static_cast<float>(present));  // divided by the size, not by who is there
      EXPECT_EQ(works[1]->result().shape[0], 2 * present);
      EXPECT_EQ(works[2]->result().shape[0], 2 * present);
      EXPECT_EQ(static_cast<const float*>(works[3]->result().data)[0], static_cast<float>(present));
    }
    const WorkPtr join = engine.join_async();
    ASSERT_TRUE(join->wait().ok()) << join->wait().to_string();
    EXPECT_EQ(join->last_joined(), 2);
    EXPECT_EQ(sum_on(engine, kGlobalProcessSet, "after", 1), 3);
  });
}

TEST_P(Membership, AJoinedRankTakesPartInItsSets) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    const ProcessSetId pair = engine.add_process_set({0, 2}).value();
    if (engine.rank() == 0) {
      EXPECT_EQ(sum_on(engine, pair, "x", 5), 5);
      std::vector<float> data(1);
      const Status status = engine.broadcast_async("b", view_of(data), view_of(data), 2)->wait();
      EXPECT_THAT(status.message(), HasSubstr("its root, rank 2"));
    }
    const Status joined = engine.join_async()->wait();
    EXPECT_TRUE(joined.ok()) << joined.to_string();
  });
}

}  // namespace
}  // namespace khorus::test
