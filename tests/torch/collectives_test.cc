// The collectives on tensors: values, layouts, in place and not, groups, ragged gathers, errors.
#include <torch/torch.h>

#include "tests/torch/world.h"

namespace khorus::torch::testing {
namespace {

ReduceOptions reduce(Engine& engine, const std::string& name, ReduceOp op = ReduceOp::kSum) {
  ReduceOptions options;
  options.name = name;
  options.op = op;
  options.engine = &engine;
  return options;
}

CollectiveOptions with(Engine& engine, const std::string& name) {
  CollectiveOptions options;
  options.name = name;
  options.engine = &engine;
  return options;
}

Tensor ranked(const Engine& engine, at::IntArrayRef shape, ::torch::Dtype dtype = ::torch::kFloat) {
  return ::torch::full(shape, engine.rank() + 1, dtype);
}

TEST(Allreduce, LeavesItsInputAloneAndReducesInPlaceWithTheUnderscore) {
  run_world({3}, [](Engine& engine) {
    const Tensor x = ranked(engine, {2, 5});
    EXPECT_TRUE(allreduce(x, reduce(engine, "a")).eq(6).all().item<bool>());
    EXPECT_TRUE(x.eq(engine.rank() + 1).all().item<bool>());
    EXPECT_TRUE(allreduce_(x, reduce(engine, "b", ReduceOp::kAverage)).is_same(x));
    EXPECT_TRUE(x.eq(2).all().item<bool>());
  });
}

TEST(Allreduce, KnowsEveryDtypeOfTheApi) {
  run_world({2}, [](Engine& engine) {
    for (const auto dtype :
         {::torch::kUInt8, ::torch::kInt8, ::torch::kInt16, ::torch::kInt32, ::torch::kInt64,
          ::torch::kFloat16, ::torch::kBFloat16, ::torch::kFloat32, ::torch::kFloat64}) {
      const std::string name = at::toString(dtype);
      const Tensor sum = allreduce(ranked(engine, {7}, dtype), reduce(engine, name));
      EXPECT_EQ(sum.scalar_type(), dtype);
      EXPECT_TRUE(sum.eq(3).all().item<bool>()) << name;
    }
    const Tensor flag = ::torch::full({3}, engine.rank() == 0, ::torch::kBool);
    EXPECT_TRUE(allreduce(flag, reduce(engine, "or", ReduceOp::kMax)).all().item<bool>());
    EXPECT_FALSE(allreduce(flag, reduce(engine, "and", ReduceOp::kMin)).any().item<bool>());
  });
}

TEST(Allreduce, ScalesBeforeAndAfter) {
  run_world({2}, [](Engine& engine) {
    ReduceOptions options = reduce(engine, "scaled");
    options.prescale_factor = 0.5;
    options.postscale_factor = 10;
    EXPECT_TRUE(allreduce(ranked(engine, {4}), options).eq(15).all().item<bool>());
  });
}

TEST(Allreduce, TakesScalarsEmptyAndNonContiguousTensors) {
  run_world({2}, [](Engine& engine) {
    EXPECT_EQ(allreduce(ranked(engine, {}), reduce(engine, "scalar")).item<float>(), 3);
    EXPECT_EQ(allreduce(::torch::empty({0, 4}), reduce(engine, "empty")).sizes(),
              (std::vector<int64_t>{0, 4}));

    const Tensor base = ::torch::arange(12, ::torch::kFloat).view({3, 4}) * (engine.rank() + 1);
    const Tensor expected = ::torch::arange(12, ::torch::kFloat).view({3, 4}) * 3;
    const Tensor transposed = base.t();
    EXPECT_TRUE(allreduce(transposed, reduce(engine, "t")).equal(expected.t()));
    const Tensor column = base.select(1, 2);
    allreduce_(column, reduce(engine, "column"));
    EXPECT_TRUE(base.select(1, 2).equal(expected.select(1, 2)));  // written through the view
    EXPECT_TRUE(base.select(1, 1).equal(expected.select(1, 1) / 3 * (engine.rank() + 1)));
  });
}

TEST(Allreduce, RunsManyAtOnceAndOutlivesTheCallersTensor) {
  run_world({2}, [](Engine& engine) {
    std::vector<Handle> handles;
    for (int i = 0; i < 50; ++i) {
      handles.push_back(
          allreduce_async(ranked(engine, {100}) * i, reduce(engine, "many." + std::to_string(i))));
    }
    for (int i = 0; i < 50; ++i) {
      Handle& handle = handles[static_cast<size_t>(i)];
      EXPECT_TRUE(synchronize(handle).eq(3 * i).all().item<bool>());
      EXPECT_TRUE(poll(handle));
      EXPECT_TRUE(handle.wait().eq(3 * i).all().item<bool>());  // again
    }
  });
}

TEST(Allreduce, WorksWithoutANameInTheSameOrder) {
  run_world({2}, [](Engine& engine) {
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(allreduce(ranked(engine, {5}), reduce(engine, "")).eq(3).all().item<bool>());
    }
  });
}

TEST(GroupedAllreduce, ReducesAllMembers) {
  run_world({2}, [](Engine& engine) {
    std::vector<Tensor> tensors;
    for (int i = 1; i <= 4; ++i) tensors.push_back(ranked(engine, {i, i}) * i);
    const std::vector<Tensor> sums = grouped_allreduce(tensors, reduce(engine, "group"));
    ASSERT_EQ(sums.size(), 4U);
    for (int i = 1; i <= 4; ++i) {
      EXPECT_TRUE(sums[static_cast<size_t>(i - 1)].eq(3 * i).all().item<bool>());
    }
    grouped_allreduce_(tensors, reduce(engine, "group", ReduceOp::kMax));
    EXPECT_TRUE(tensors[3].eq(8).all().item<bool>());
  });
}

TEST(Allgather, JoinsRaggedParts) {
  run_world({3}, [](Engine& engine) {
    // Rank r has r rows: rank 0 has none.
    const Tensor mine = ranked(engine, {engine.rank(), 2}, ::torch::kInt64);
    Tensor all = allgather(mine, with(engine, "rows"));
    ASSERT_EQ(all.sizes(), (std::vector<int64_t>{3, 2}));
    EXPECT_TRUE(all.select(1, 0).equal(::torch::tensor({2, 3, 3}, ::torch::kInt64)));
    all.add_(1);  // the memory is the result's own
    EXPECT_TRUE(allgather(ranked(engine, {}), with(engine, "scalars"))
                    .equal(::torch::tensor({1.F, 2.F, 3.F})));
  });
}

TEST(Allgather, ResultOutlivesTheEngine) {
  std::vector<Tensor> kept(2);
  run_world({2}, [&kept](Engine& engine) {
    kept[static_cast<size_t>(engine.rank())] =
        allgather(ranked(engine, {1000}), with(engine, "kept"));
  });
  for (const Tensor& tensor : kept) EXPECT_EQ(tensor.sum().item<float>(), 3000);
}

TEST(Allgather, Groups) {
  run_world({2}, [](Engine& engine) {
    const auto all = grouped_allgather(
        {ranked(engine, {2}), ranked(engine, {engine.rank() + 1, 3})}, with(engine, "pair"));
    EXPECT_EQ(all[0].sum().item<float>(), 6);
    EXPECT_EQ(all[1].sizes(), (std::vector<int64_t>{3, 3}));
  });
}

TEST(Broadcast, TakesTheRootsValuesInAnyLayout) {
  run_world({3}, [](Engine& engine) {
    const Tensor x = ranked(engine, {4, 3});
    EXPECT_TRUE(broadcast(x, 2, with(engine, "b")).eq(3).all().item<bool>());
    EXPECT_TRUE(x.eq(engine.rank() + 1).all().item<bool>());
    const Tensor column = x.select(1, 1);
    broadcast_(column, 1, with(engine, "c"));
    EXPECT_TRUE(x.select(1, 1).eq(2).all().item<bool>());
    EXPECT_TRUE(x.select(1, 0).eq(engine.rank() + 1).all().item<bool>());
  });
}

TEST(Barrier, Returns) {
  run_world({4}, [](Engine& engine) {
    for (int i = 0; i < 5; ++i) barrier(with(engine, "barrier"));
  });
}

TEST(Errors, AreKhorusErrorsWithTheTensorsName) {
  run_world({1}, [](Engine& engine) {
    const auto message = [&engine](const Tensor& tensor) {
      try {
        allreduce(tensor, reduce(engine, "culprit"));
      } catch (const Error& error) {
        EXPECT_EQ(error.status().code(), StatusCode::kInvalidArgument);
        return std::string(error.what());
      }
      return std::string("nothing was thrown");
    };
    EXPECT_THAT(message(Tensor()), ::testing::HasSubstr("\"culprit\" is undefined"));
    EXPECT_THAT(message(::torch::ones({2}, ::torch::kComplexFloat)),
                ::testing::HasSubstr("dtype ComplexFloat"));
    EXPECT_THAT(message(::torch::eye(3).to_sparse()), ::testing::HasSubstr("is sparse"));
  });
}

TEST(Errors, OfOneRankReachAllAndLeaveTheEngineUsable) {
  run_world({2}, [](Engine& engine) {
    try {
      allreduce(::torch::ones({engine.rank() + 2}), reduce(engine, "mismatched"));
      ADD_FAILURE() << "nothing was thrown on rank " << engine.rank();
    } catch (const Error& error) {
      EXPECT_EQ(error.status().code(), StatusCode::kMismatch);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("mismatched"));
    }
    EXPECT_TRUE(allreduce(ranked(engine, {2}), reduce(engine, "after")).eq(3).all().item<bool>());
  });
}

}  // namespace
}  // namespace khorus::torch::testing
