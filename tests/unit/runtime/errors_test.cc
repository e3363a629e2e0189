// Mistakes of the caller: what is refused at once, and what all ranks are told; the engine stays
// usable after each.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

void expect_usable(Engine& engine) {
  std::vector<float> values(3, 1);
  const Status status =
      engine.allreduce_async("still", view_of(values), view_of(values), with(ReduceOp::kSum))
          ->wait();
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(values[2], static_cast<float>(engine.size()));
}

TEST(Misuse, IsRefusedAtOnce) {
  Ranks(2).run([](Engine& engine) {
    std::vector<float> values(8, 1);
    const TensorView good = view_of(values);
    const auto refused = [&](const WorkPtr& work, StatusCode code, const std::string& what) {
      EXPECT_TRUE(work->poll()) << what;
      const Status status = work->wait();
      EXPECT_EQ(status.code(), code) << status.to_string();
      EXPECT_THAT(status.message(), HasSubstr(what));
    };
    const auto invalid = [&](const TensorView& in, const TensorView& out, const std::string& what,
                             AllreduceOptions options = {}) {
      refused(engine.allreduce_async("bad", in, out, options), StatusCode::kInvalidArgument, what);
    };
    TensorView bad = good;
    bad.data = nullptr;
    invalid(bad, good, "null data");
    invalid(good, bad, "output");
    bad = good;
    bad.shape = {-1, 8};
    invalid(bad, bad, "[-1,8]");
    bad.shape = {std::numeric_limits<int64_t>::max(), 4};
    invalid(bad, bad, "more bytes than memory");
    bad.shape = Shape(33, 1);
    invalid(bad, bad, "33 dimensions");
    bad = good;
    bad.dtype = static_cast<DataType>(77);
    invalid(bad, good, "data type 77");
    bad = good;
    bad.dtype = DataType::kInt32;
    invalid(bad, good, "input is int32 and output is float32");
    bad = good;
    bad.shape = {2, 4};
    invalid(bad, good, "[2,4]");
    bad = good;
    bad.device = {DeviceKind::kCuda, 1};
    invalid(bad, bad, "cuda:1");
    TensorView first_half = good, shifted = good;
    first_half.shape = shifted.shape = {4};
    shifted.data = values.data() + 2;
    invalid(first_half, shifted, "overlap");
    invalid(good, good, "unknown reduction", with(static_cast<ReduceOp>(9)));
    invalid(good, good, "finite", with(ReduceOp::kSum, NAN));
    bool flag = true;
    const TensorView flags{&flag, DataType::kBool, {1}, {}, nullptr, nullptr, nullptr};
    invalid(flags, flags, "bool has no average");
    AllreduceOptions set;
    set.process_set = 7;
    invalid(good, good, "process set 7", set);
    refused(engine.broadcast_async("bad", good, good, 2), StatusCode::kInvalidArgument,
            "root rank 2");
    refused(engine.broadcast_async("bad", good, good, -1), StatusCode::kInvalidArgument, "0 to 1");
    refused(engine.barrier_async(std::string(2000, 'x')), StatusCode::kInvalidArgument,
            "2000 bytes");
    refused(engine.barrier_async("khorus.internal/x"), StatusCode::kInvalidArgument, "belong");

    // One bad member refuses the group.
    bad = good;
    bad.data = nullptr;
    for (const WorkPtr& work :
         engine.grouped_allreduce_async("g", {{"a", good, good}, {"b", bad, bad}}, {})) {
      refused(work, StatusCode::kInvalidArgument, "\"b\"");
    }
    refused(engine.grouped_allreduce_async("g", {{"a", good, good}, {"a", good, good}}, {})[0],
            StatusCode::kDuplicateName, "two members are called \"a\"");
    refused(engine.grouped_allreduce_async("g", {{"a", good, good}, {"b", good, good}}, {})[1],
            StatusCode::kInvalidArgument, "overlap");
    expect_usable(engine);
    EXPECT_EQ(engine.stats().operations_submitted, 1U);
  });
}

TEST(Misuse, DuplicateNames) {
  Ranks(2).run([](Engine& engine) {
    std::vector<float> values(4, 1), other(4, 1);
    WorkPtr first;
    if (engine.rank() == 0) {
      first = engine.allreduce_async("twice", view_of(values), view_of(values), {});
      const WorkPtr second = engine.allreduce_async("twice", view_of(other), view_of(other), {});
      const Status status = second->wait();
      EXPECT_EQ(status.code(), StatusCode::kDuplicateName) << status.to_string();
      EXPECT_THAT(status.message(), HasSubstr("\"twice\""));
      EXPECT_FALSE(first->poll());
    }
    ASSERT_TRUE(engine.barrier_async()->wait().ok());
    if (engine.rank() == 1) {
      first = engine.allreduce_async("twice", view_of(values), view_of(values), {});
    }
    EXPECT_TRUE(first->wait().ok());
    expect_usable(engine);
  });
}

class Mismatch : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(Runtime, Mismatch, testing::ValuesIn(transports()),
                         testing::PrintToStringParamName());

TEST_P(Mismatch, NamesTensorRanksAndValues) {
  Ranks(3, GetParam()).run([](Engine& engine) {
    const bool odd = engine.rank() == 2;
    std::vector<float> values(12, 1);
    std::vector<double> doubles(12, 1);
    const auto mismatch = [&](const WorkPtr& work, const char* one, const char* other) {
      const Status status = work->wait();
      EXPECT_EQ(status.code(), StatusCode::kMismatch) << status.to_string();
      EXPECT_THAT(status.message(),
                  AllOf(HasSubstr("\"w\""), HasSubstr(one), HasSubstr(other), HasSubstr("rank 2")));
    };
    for (int round = 0; round < 2; ++round) {
      TensorView view = view_of(values);
      if (odd) view.shape = {3, 4};
      mismatch(engine.allreduce_async("w", view, view, {}), "[12]", "[3,4]");
      view = odd ? view_of(doubles, DataType::kFloat64) : view_of(values);
      mismatch(engine.allreduce_async("w", view, view, {}), "float32", "float64");
      view = view_of(values);
      mismatch(engine.allreduce_async("w", view, view, with(odd ? ReduceOp::kMax : ReduceOp::kSum)),
               "sum", "max");
      mismatch(engine.broadcast_async("w", view, view, odd ? 1 : 0), "0", "1");
      mismatch(
          odd ? engine.allgather_async("w", view) : engine.allreduce_async("w", view, view, {}),
          "allreduce", "allgather");
      expect_usable(engine);
    }
  });
}

TEST_P(Mismatch, OfOneMemberFailsTheGroup) {
  Ranks(2, GetParam()).run([](Engine& engine) {
    std::vector<float> a(4, 1), b(4, 1);
    TensorView odd = view_of(b);
    if (engine.rank() == 1) odd.shape = {2, 2};
    const auto works = engine.grouped_allreduce_async(
        "pair", {{"a", view_of(a), view_of(a)}, {"b", odd, odd}}, {});
    for (const WorkPtr& work : works) EXPECT_EQ(work->wait().code(), StatusCode::kMismatch);
    expect_usable(engine);
  });
}

}  // namespace
}  // namespace khorus::test
