// The ranks of a process set meet on their GPUs for the first operation there, whatever it is: also
// for a send/recv of two of them, for which the others have submitted nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/gpu/engines.h"

namespace khorus::test {
namespace {

using testing::HasSubstr;

std::vector<float> sums_of(const std::vector<int>& ranks) {
  std::vector<float> values(1000);
  for (const int rank : ranks) {
    const std::vector<float> part = numbers(rank);
    for (size_t i = 0; i < values.size(); ++i) values[i] += part[i];
  }
  return values;
}

// All ranks of the set add up theirs there.
void expect_a_sum(Engine& engine, Framework& gpu, ProcessSetId set) {
  AllreduceOptions options = with(ReduceOp::kSum);
  options.process_set = set;
  const TensorView tensor = gpu.tensor(numbers(engine.rank()));
  const Status status = engine.allreduce_async("sum", tensor, tensor, options)->wait();
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(gpu.read<float>(tensor), sums_of(*engine.process_set_ranks(set)));
}

// `from` sends its numbers to `to`; nothing on the others.
void expect_a_message(Engine& engine, Framework& gpu, int from, int to,
                      ProcessSetId set = kGlobalProcessSet) {
  if (engine.rank() != from && engine.rank() != to) return;
  const TensorView tensor = gpu.tensor(numbers(engine.rank()));
  const Status status = engine.rank() == from ? engine.send_async(tensor, to, 0, set)->wait()
                                              : engine.recv_async(tensor, from, 0, set)->wait();
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(gpu.read<float>(tensor), numbers(from));
}

class GpuMeeting : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, GpuMeeting, testing::Values(2, 3, 4));

TEST_P(GpuMeeting, IsForAMessageToo) {
  for (const bool upwards : {true, false}) {
    on_gpus(GetParam(), [upwards](Engine& engine, Framework& gpu) {
      const int last = engine.size() - 1;
      expect_a_message(engine, gpu, upwards ? 0 : last, upwards ? last : 0);
      expect_a_sum(engine, gpu, kGlobalProcessSet);
      expect_a_message(engine, gpu, 1, 0);
      EXPECT_TRUE(engine.barrier_async()->wait().ok());
    });
  }
}

// Everyone to the next one, in a ring, and back: all at once, so that who takes part in one message
// has to meet for another.
TEST_P(GpuMeeting, IsOneForManyMessagesAtOnce) {
  on_gpus(GetParam(), [](Engine& engine, Framework& gpu) {
    const int size = engine.size();
    const int next = (engine.rank() + 1) % size;
    const int before = (engine.rank() + size - 1) % size;
    const TensorView mine = gpu.tensor(numbers(engine.rank()));
    const TensorView up = gpu.tensor(std::vector<float>(1000));
    const TensorView down = gpu.tensor(std::vector<float>(1000));
    std::vector<WorkPtr> works = {
        engine.send_async(mine, next, 1), engine.recv_async(up, before, 1),
        engine.send_async(mine, before, 2), engine.recv_async(down, next, 2)};
    const Status status = wait_all(works);
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(gpu.read<float>(up), numbers(before));
    EXPECT_EQ(gpu.read<float>(down), numbers(next));
    expect_a_sum(engine, gpu, kGlobalProcessSet);
  });
}

// A rank that has nothing on a GPU itself and goes on with other things meanwhile: reductions on
// the CPU, and new process sets, for which the ranks meet, too.
TEST_P(GpuMeeting, HasRanksThatDoNotKnowOfIt) {
  on_gpus(GetParam() + 1, [](Engine& engine, Framework& gpu) {
    const int last = engine.size() - 1;
    const bool knows = engine.rank() == 0 || engine.rank() == last;
    const TensorView tensor = knows ? gpu.tensor(numbers(engine.rank())) : TensorView();
    std::vector<WorkPtr> works;
    if (engine.rank() == 0) works = {engine.send_async(tensor, last)};
    if (engine.rank() == last) works = {engine.recv_async(tensor, 0)};
    for (int round = 0; round < 3; ++round) {
      std::vector<float> host = numbers(engine.rank());
      const TensorView view = view_of(host);
      EXPECT_TRUE(engine.allreduce_async("cpu", view, view, with(ReduceOp::kSum))->wait().ok());
      EXPECT_EQ(host, sums(engine.size()));
      const auto added = engine.add_process_set({0, 1});
      ASSERT_TRUE(added.ok()) << added.status().to_string();
      EXPECT_TRUE(engine.remove_process_set(*added).ok());
    }
    const Status status = wait_all(works);
    EXPECT_TRUE(status.ok()) << status.to_string();
    if (knows) {
      EXPECT_EQ(gpu.read<float>(tensor), numbers(0));
    }
    EXPECT_EQ(engine.stats().responses_executed, knows ? 4U : 3U);
    EXPECT_TRUE(engine.barrier_async()->wait().ok());
  });
}

TEST(GpuMeetings, AreOfTheRanksOfASet) {
  on_gpus(4, [](Engine& engine, Framework& gpu) {
    for (int round = 0; round < 2; ++round) {
      const auto added = engine.add_process_set({0, 2, 3});
      ASSERT_TRUE(added.ok());
      expect_a_message(engine, gpu, 3, 2, *added);
      if (engine.rank() != 1) expect_a_sum(engine, gpu, *added);
      EXPECT_TRUE(engine.remove_process_set(*added).ok());
    }
    expect_a_sum(engine, gpu, kGlobalProcessSet);
  });
}

// What is agreed may need an exchange of the ranks that comes too late: to meet for a message, or
// the splits of an alltoall. Then it fails, and only it does.
TEST(GpuMeetings, OfASetThatIsRemovedMeanwhile) {
  on_gpus(4, [](Engine& engine, Framework& gpu) {
    const TensorView tensor = gpu.tensor(std::vector<float>(999));  // of three equal parts
    const int rank = engine.rank();
    for (int round = 0; round < 20; ++round) {
      const auto added = engine.add_process_set({0, 2, 3});
      ASSERT_TRUE(added.ok()) << added.status().to_string();
      WorkPtr work;
      if (round % 2 == 0) {
        if (rank == 3) work = engine.send_async(tensor, 2, 0, *added);
        if (rank == 2) work = engine.recv_async(tensor, 3, 0, *added);
      } else if (rank != 1) {
        expect_a_sum(engine, gpu, *added);
        work = engine.alltoall_async("swap", tensor, {}, *added);
      }
      const Status removed = engine.remove_process_set(*added);
      EXPECT_TRUE(removed.ok()) << removed.to_string();
      if (work == nullptr) continue;
      const Status status = work->wait();
      if (!status.ok()) {
        EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
        EXPECT_THAT(status.message(), HasSubstr("process set " + std::to_string(*added)));
      }
    }
    expect_a_sum(engine, gpu, kGlobalProcessSet);
  });
}

// Sets that overlap, with their first messages at once and submitted in any order: each rank meets
// for all of its sets in the order of the decisions.
TEST(GpuMeetings, OfSetsThatOverlapAreInOneOrder) {
  on_gpus(4, [](Engine& engine, Framework& gpu) {
    const std::vector<std::vector<int>> members = {{0, 1, 2}, {1, 2, 3}, {0, 2, 3}, {0, 1, 3}};
    std::vector<ProcessSetId> sets = {kGlobalProcessSet};
    std::vector<std::pair<int, int>> messages = {{0, 3}};
    for (const std::vector<int>& ranks : members) {
      const auto added = engine.add_process_set(ranks);
      ASSERT_TRUE(added.ok());
      sets.push_back(*added);
      messages.emplace_back(ranks[2], ranks[0]);
    }
    std::vector<WorkPtr> works;
    std::vector<TensorView> received;
    std::vector<int> senders;
    for (size_t i = 0; i < sets.size(); ++i) {
      const size_t k = (i + static_cast<size_t>(engine.rank())) % sets.size();
      const auto [from, to] = messages[k];
      if (engine.rank() == from) {
        works.push_back(engine.send_async(gpu.tensor(numbers(from)), to, 0, sets[k]));
      } else if (engine.rank() == to) {
        received.push_back(gpu.tensor(std::vector<float>(1000)));
        senders.push_back(from);
        works.push_back(engine.recv_async(received.back(), from, 0, sets[k]));
      }
    }
    const Status status = wait_all(works);
    ASSERT_TRUE(status.ok()) << status.to_string();
    for (size_t i = 0; i < received.size(); ++i) {
      EXPECT_EQ(gpu.read<float>(received[i]), numbers(senders[i]));
    }
    for (const ProcessSetId set : sets) {
      const auto ranks = *engine.process_set_ranks(set);
      if (std::find(ranks.begin(), ranks.end(), engine.rank()) == ranks.end()) continue;
      expect_a_sum(engine, gpu, set);
    }
    EXPECT_TRUE(engine.barrier_async()->wait().ok());  // some are in fewer of them
  });
}

TEST(GpuMeetings, HaveRanksThatHaveJoined) {
  on_gpus(3, [](Engine& engine, Framework& gpu) {
    const WorkPtr joined = engine.rank() == 1 ? engine.join_async() : nullptr;
    expect_a_message(engine, gpu, 2, 0);
    EXPECT_TRUE((joined == nullptr ? engine.join_async() : joined)->wait().ok());
    expect_a_sum(engine, gpu, kGlobalProcessSet);
  });
}

// ---- that come to nothing ----

// What one rank cannot do is an error for those who have asked for it, at any time and with the
// reason, and no failure.
TEST(GpuMeetings, WithARankThatHasNoGpuAreAnErrorThatNamesIt) {
  on_gpus(3, [](Engine& engine, Framework& gpu) {
    const TensorView tensor = gpu.tensor(numbers(engine.rank()));
    if (engine.rank() == 1) {  // shows a tensor of a GPU that is not there
      TensorView elsewhere = tensor;
      elsewhere.device.index = 99;
      EXPECT_FALSE(engine.broadcast_async("refused", elsewhere, elsewhere, 7)->wait().ok());
    }
    EXPECT_TRUE(engine.barrier_async()->wait().ok());
    for (int round = 0; round < 2 && engine.rank() != 1; ++round) {
      const WorkPtr work =
          engine.rank() == 0 ? engine.send_async(tensor, 2) : engine.recv_async(tensor, 0);
      const Status status = round == 0 ? work->wait() : wait_on_stream(*work, gpu.stream());
      EXPECT_EQ(status.code(), StatusCode::kUnavailable);
      EXPECT_THAT(status.message(), HasSubstr("send/recv \"rank 0 to 2, tag 0 #"));
      EXPECT_THAT(status.message(), HasSubstr("process set 0 has no communicator on GPUs"));
      EXPECT_THAT(status.message(), testing::ContainsRegex("rank 1 \\(.*, pid [0-9]+\\) cannot: "));
      EXPECT_THAT(status.message(), HasSubstr("is to use GPU 99, and the driver shows it"));
      EXPECT_THAT(status.message(), HasSubstr("or use a process set (add_process_set) of ranks"));
    }
    // Those that have one go on, all ranks on the CPU.
    const auto added = engine.add_process_set({0, 2});
    ASSERT_TRUE(added.ok());
    expect_a_message(engine, gpu, 2, 0, *added);
    std::vector<float> host = numbers(engine.rank());
    const TensorView view = view_of(host);
    EXPECT_TRUE(engine.allreduce_async("cpu", view, view, with(ReduceOp::kSum))->wait().ok());
    EXPECT_EQ(host, sums(3));
    EXPECT_EQ(gpu.read<float>(tensor), numbers(engine.rank()));  // nothing has touched it
  });
}

// A rank that does not know of a message leaves: it ends well, or as everything does then.
TEST(GpuMeetings, ThatARankLeavesEndWithTheEngine) {
  for (int round = 0; round < 10; ++round) {
    on_gpus(3, [](Engine& engine, Framework& gpu) {
      EXPECT_TRUE(engine.barrier_async()->wait().ok());
      if (engine.rank() == 1) {
        engine.shutdown();
        return;
      }
      const TensorView tensor = gpu.tensor(numbers(engine.rank()));
      const WorkPtr work =
          engine.rank() == 0 ? engine.send_async(tensor, 2) : engine.recv_async(tensor, 0);
      const Status status = work->wait();
      EXPECT_EQ(gpu.read<float>(tensor), numbers(status.ok() ? 0 : engine.rank()));
      if (!status.ok()) {
        EXPECT_EQ(status.code(), StatusCode::kShutdown) << status.to_string();
      }
    });
  }
}

}  // namespace
}  // namespace khorus::test
