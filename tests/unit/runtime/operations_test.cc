// Alltoall, reducescatter, send/recv and Adasum through the engine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "tests/adasum.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

using testing::HasSubstr;

class Operations : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(Runtime, Operations, testing::ValuesIn(transports()),
                         testing::PrintToStringParamName());

TensorView rows_of(std::vector<float>& values, int64_t width) {
  TensorView view = view_of(values);
  view.shape = {view.shape[0] / width, width};
  return view;
}

std::vector<float> floats_of(const Work& work) {
  const TensorView result = work.result();
  std::vector<float> values(result.bytes() / sizeof(float));
  if (!values.empty()) std::memcpy(values.data(), result.data, result.bytes());
  return values;
}

// Rank r sends r + p rows to rank p; every row says where it comes from and goes to.
TEST_P(Operations, AlltoallWithSplits) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    for (int round = 0; round < 3; ++round) {
      std::vector<int64_t> splits;
      std::vector<float> input;
      for (int peer = 0; peer < 3; ++peer) {
        splits.push_back(engine.rank() + peer);
        for (int64_t i = 0; i < 2 * splits.back(); ++i) {
          input.push_back(static_cast<float>(100 * engine.rank() + 10 * peer + round));
        }
      }
      const WorkPtr work = engine.alltoall_async("rows", rows_of(input, 2), splits);
      ASSERT_TRUE(work->wait().ok()) << work->wait().to_string();
      std::vector<float> expected;
      std::vector<int64_t> received;
      for (int peer = 0; peer < 3; ++peer) {
        received.push_back(peer + engine.rank());
        expected.insert(expected.end(), static_cast<size_t>(2 * received.back()),
                        static_cast<float>(100 * peer + 10 * engine.rank() + round));
      }
      EXPECT_EQ(work->first_extents(), received);
      EXPECT_EQ(work->result().shape,
                (Shape{std::accumulate(received.begin(), received.end(), int64_t{0}), 2}));
      EXPECT_EQ(floats_of(*work), expected);
    }
  });
}

TEST_P(Operations, GroupedAlltoallInEqualParts) {
  Ranks(2, GetParam()).run([&](Engine& engine) {
    std::vector<float> a{1, 2}, b{3, 4, 5, 6};
    for (float& value : a) value += 10 * static_cast<float>(engine.rank());
    for (float& value : b) value += 10 * static_cast<float>(engine.rank());
    const auto works =
        engine.grouped_alltoall_async("g", {{"a", view_of(a), {}}, {"b", view_of(b), {}}});
    ASSERT_TRUE(wait_all(works).ok()) << wait_all(works).to_string();
    const bool first = engine.rank() == 0;
    EXPECT_EQ(floats_of(*works[0]),
              first ? (std::vector<float>{1, 11}) : std::vector<float>({2, 12}));
    EXPECT_EQ(floats_of(*works[1]),
              first ? (std::vector<float>{3, 4, 13, 14}) : std::vector<float>({5, 6, 15, 16}));
  });
}

TEST_P(Operations, ReducescatterGivesTheFirstRanksOneRowMore) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    std::vector<float> input(7 * 2);
    for (size_t i = 0; i < input.size(); ++i) {
      input[i] = static_cast<float>(i) + static_cast<float>(engine.rank());
    }
    const WorkPtr sum =
        engine.reducescatter_async("sum", rows_of(input, 2), with(ReduceOp::kSum, 2, 0.5));
    const WorkPtr mean =
        engine.reducescatter_async("mean", rows_of(input, 2), with(ReduceOp::kAverage));
    ASSERT_TRUE(sum->wait().ok()) << sum->wait().to_string();
    ASSERT_TRUE(mean->wait().ok());
    const int64_t rows = engine.rank() == 0 ? 3 : 2;
    const int64_t first = engine.rank() == 0 ? 0 : 1 + 2 * engine.rank();
    EXPECT_EQ(sum->result().shape, (Shape{rows, 2}));
    std::vector<float> sums, means;
    for (int64_t i = 2 * first; i < 2 * (first + rows); ++i) {
      sums.push_back(3 * static_cast<float>(i) + 3);
      means.push_back(static_cast<float>(i) + 1);
    }
    EXPECT_EQ(floats_of(*sum), sums);
    EXPECT_EQ(floats_of(*mean), means);
  });
}

TEST_P(Operations, SendsMeetInOrder) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    constexpr int kMessages = 70;  // more than there are names of one direction and tag
    const int next = (engine.rank() + 1) % 3;
    const int previous = (engine.rank() + 2) % 3;
    for (int i = 0; i < kMessages; ++i) {
      std::vector<float> out(5, static_cast<float>(engine.rank() * 1000 + i)), in(5), tagged(1);
      std::vector<float> with_tag{static_cast<float>(i)};
      const std::vector<WorkPtr> works{
          engine.recv_async(view_of(in), previous), engine.send_async(view_of(with_tag), next, 7),
          engine.send_async(view_of(out), next), engine.recv_async(view_of(tagged), previous, 7)};
      ASSERT_TRUE(wait_all(works).ok()) << wait_all(works).to_string();
      EXPECT_EQ(in, std::vector<float>(5, static_cast<float>(previous * 1000 + i)));
      EXPECT_EQ(tagged[0], static_cast<float>(i));
    }
    // The two others may have messages for each other yet, which a shutdown would end.
    EXPECT_TRUE(engine.barrier_async()->wait().ok());
  });
}

TEST_P(Operations, SendAndRecvOfDifferentShapesIsAnErrorOfBoth) {
  Ranks(2, GetParam()).run([&](Engine& engine) {
    std::vector<float> data(engine.rank() == 0 ? 3 : 4);
    const WorkPtr work = engine.rank() == 0 ? engine.send_async(view_of(data), 1)
                                            : engine.recv_async(view_of(data), 0);
    EXPECT_EQ(work->wait().code(), StatusCode::kMismatch);
    std::vector<float> again(2, static_cast<float>(engine.rank()));
    const WorkPtr second = engine.rank() == 0 ? engine.send_async(view_of(again), 1)
                                              : engine.recv_async(view_of(again), 0);
    EXPECT_TRUE(second->wait().ok());
    EXPECT_EQ(again, std::vector<float>(2, 0.0F));
  });
}

TEST_P(Operations, AdasumFollowsItsDefinition) {
  for (const int size : {1, 2, 4}) {
    for (const size_t count : {1U, 2U, 7U, 1000U}) {
      const std::vector<std::vector<double>> vectors = adasum_vectors(size, count);
      const std::vector<double> expected = adasum_of(vectors);
      Ranks(size, GetParam()).run([&](Engine& engine) {
        std::vector<double> values = vectors[static_cast<size_t>(engine.rank())];
        std::vector<float> narrow(values.begin(), values.end());
        const TensorView wide_view = view_of(values, DataType::kFloat64);
        const TensorView narrow_view = view_of(narrow);
        const std::vector<WorkPtr> works{
            engine.allreduce_async("wide", wide_view, wide_view, with(ReduceOp::kAdasum)),
            engine.allreduce_async("narrow", narrow_view, narrow_view, with(ReduceOp::kAdasum))};
        ASSERT_TRUE(wait_all(works).ok()) << wait_all(works).to_string();
        for (size_t i = 0; i < count; ++i) {
          EXPECT_NEAR(values[i], expected[i], 1e-12);
          EXPECT_NEAR(narrow[i], expected[i], 1e-5);
        }
      });
    }
  }
}

TEST_P(Operations, WrongArgumentsAreRefusedBeforeAnythingIsSent) {
  Ranks(3, GetParam()).run([&](Engine& engine) {
    std::vector<float> data(4);
    const TensorView view = view_of(data);
    TensorView scalar = view;
    scalar.shape = {};
    std::vector<int32_t> integers(4);
    const auto refused = [&](const WorkPtr& work, const std::string& what) {
      const Status status = work->wait();
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << what;
      EXPECT_THAT(status.message(), HasSubstr(what));
    };
    refused(engine.alltoall_async("a", view), "cannot be divided by the 3 ranks");
    refused(engine.alltoall_async("a", view, {1, 2}), "2 numbers for 3 ranks");
    refused(engine.alltoall_async("a", view, {1, 1, 1}), "add up to 3");
    refused(engine.alltoall_async("a", view, {5, -1, 0}), "0 or more");
    refused(engine.alltoall_async("a", scalar), "scalar");
    refused(engine.reducescatter_async("r", scalar, {}), "scalar");
    refused(engine.reducescatter_async("r", view, with(ReduceOp::kAdasum)), "adasum");
    refused(engine.allreduce_async("s", view, view, with(ReduceOp::kAdasum)), "power of two");
    const TensorView ints = view_of(integers, DataType::kInt32);
    refused(engine.allreduce_async("s", ints, ints, with(ReduceOp::kAdasum)), "int32");
    refused(engine.send_async(view, engine.rank()), "to itself");
    refused(engine.send_async(view, 3), "not in process set");
    refused(engine.recv_async(view, -1), "receiving from any");
    refused(engine.send_async(view, (engine.rank() + 1) % 3, -4), "tag -4");
    refused(engine.allreduce_async("x", view, view, {.process_set = 9}), "process set 9");
    const auto works = engine.grouped_alltoall_async("g", {{"a", view, {}}}, {{4, 0, 0}, {}});
    refused(works[0], "2 lists of splits for 1 members");
    EXPECT_TRUE(engine.barrier_async()->wait().ok());
  });
}

}  // namespace
}  // namespace khorus::test
