// Process sets and join, between processes.
#include <thread>

#include "tests/processes/world.h"

namespace khorus::test {
namespace {

std::vector<int> every_second(int first) {
  std::vector<int> ranks;
  for (int r = first; r < size(); r += 2) ranks.push_back(r);
  return ranks;
}

bool has(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

TEST(ProcessSets, RunBesideEachOther) {
  std::vector<int> all = every_second(0);
  for (const int r : every_second(1)) all.push_back(r);
  std::sort(all.begin(), all.end());
  std::vector<std::vector<int>> sets = {every_second(0), all, {size() - 1}};
  if (size() > 1) sets.push_back(every_second(1));
  std::vector<ProcessSetId> ids;
  for (const auto& ranks : sets) ids.push_back(add_process_set(ranks));
  for (int round = 0; round < 5 * soak_factor(20); ++round) {
    std::vector<std::vector<int64_t>> sums(sets.size());
    std::vector<WorkPtr> works;
    for (size_t s = 0; s < sets.size(); ++s) {
      if (!has(sets[s], rank())) continue;
      sums[s].assign(static_cast<size_t>(1 + 3000 * round), rank() + 1);
      works.push_back(engine().allreduce_async("sum", view_of(sums[s]), view_of(sums[s]),
                                               with(ReduceOp::kSum, 1, 1, ids[s])));
    }
    std::vector<int64_t> world(10, 1);
    works.push_back(
        engine().allreduce_async("sum", view_of(world), view_of(world), with(ReduceOp::kSum)));
    throw_if_error(wait_all(works));
    EXPECT_EQ(world.back(), size());
    for (size_t s = 0; s < sets.size(); ++s) {
      if (!has(sets[s], rank())) continue;
      int64_t expected = 0;
      for (const int r : sets[s]) expected += r + 1;
      EXPECT_EQ(sums[s].back(), expected) << "set " << ids[s];
    }
  }
  for (const ProcessSetId id : ids) {
    remove_process_set(id);
    EXPECT_EQ(engine().process_set_ranks(id).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(ProcessSets, OtherOperationsCountRanksOfTheSet) {
  const std::vector<int> ranks = every_second(size() > 1 ? 1 : 0);
  const ProcessSetId set = add_process_set(ranks);
  if (has(ranks, rank())) {
    const auto place =
        static_cast<size_t>(std::find(ranks.begin(), ranks.end(), rank()) - ranks.begin());
    const int mine = rank();
    EXPECT_EQ(allgather("who", &mine, 1, set), ranks);
    std::vector<int> to_each(ranks.size(), rank());
    EXPECT_EQ(alltoall("each", to_each.data(), to_each.size(), {}, set), ranks);
    std::vector<int32_t> rows(ranks.size(), 1);
    EXPECT_EQ(reducescatter("part", rows.data(), rows.size(), ReduceOp::kSum, set),
              std::vector<int32_t>(1, static_cast<int32_t>(ranks.size())));
    int value = rank();
    broadcast("root", &value, 1, ranks.back(), set);
    EXPECT_EQ(value, ranks.back());
    barrier(set);
    if (ranks.size() > 1) {
      const int next = ranks[(place + 1) % ranks.size()];
      const int previous = ranks[(place + ranks.size() - 1) % ranks.size()];
      int received = -1;
      const TensorView out = internal::flat_view(&mine, 1), in = internal::flat_view(&received, 1);
      throw_if_error(wait_all(
          {engine().send_async(out, next, 1, set), engine().recv_async(in, previous, 1, set)}));
      EXPECT_EQ(received, previous);
    }
  }
  remove_process_set(set);
}

TEST(ProcessSets, AreMadeAndRemovedManyTimes) {
  ProcessSetId last = 0;
  for (int round = 0; round < 10 * soak_factor(20); ++round) {
    const std::vector<int> ranks = every_second(round % 2 == 1 && size() > 1 ? 1 : 0);
    const ProcessSetId set = add_process_set(ranks);
    EXPECT_GT(set, last);
    last = set;
    if (has(ranks, rank())) {
      float value = 1;
      allreduce("w", &value, 1, ReduceOp::kSum, set);
      EXPECT_EQ(value, static_cast<float>(ranks.size()));
    }
    remove_process_set(set);
  }
}

// An operation that is not agreed when its set goes ends with an error that says so.
TEST(ProcessSets, RemovalEndsWhatIsNotAgreed) {
  if (size() == 1) GTEST_SKIP() << "one rank agrees with itself";
  std::vector<int> ranks(static_cast<size_t>(size()));
  for (int r = 0; r < size(); ++r) ranks[static_cast<size_t>(r)] = r;
  const ProcessSetId set = add_process_set(ranks);
  std::vector<float> values(3, 1);
  WorkPtr work;
  if (rank() != 0) {
    work = engine().allreduce_async("lonely", view_of(values), view_of(values),
                                    with(ReduceOp::kSum, 1, 1, set));
  }
  remove_process_set(set);
  if (work) {
    EXPECT_EQ(work->wait().code(), StatusCode::kInvalidArgument) << work->wait().to_string();
    EXPECT_THAT(work->wait().message(), testing::HasSubstr("process set"));
  }
}

// Rank r has r + 2 batches.
TEST(Join, UnevenInputs) {
  for (int round = 0; round < 2 * soak_factor(20); ++round) {
    for (int step = 0; step < rank() + 2; ++step) {
      const int others = step < 2 ? size() : size() - (step - 1);  // that still have data
      std::vector<float> values(100, 1);
      allreduce("gradient", values.data(), values.size(), ReduceOp::kSum);
      EXPECT_EQ(values[99], static_cast<float>(others));
      std::fill(values.begin(), values.end(), 1.0F);
      allreduce("mean", values.data(), values.size(), ReduceOp::kAverage);
      EXPECT_FLOAT_EQ(values[0], static_cast<float>(others) / static_cast<float>(size()));
      const auto rows = allgather("rows", values.data(), 2);
      EXPECT_EQ(rows.size(), static_cast<size_t>(2 * others));
    }
    EXPECT_EQ(join(), size() - 1);
    float one = 1;
    allreduce("after", &one, 1, ReduceOp::kSum);
    EXPECT_EQ(one, static_cast<float>(size()));
  }
}

}  // namespace
}  // namespace khorus::test
