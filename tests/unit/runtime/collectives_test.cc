// Engines, end to end: every operation gives the right numbers, over every transport.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "core/base/reduce.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

class Collectives : public testing::TestWithParam<std::tuple<Transport, int>> {
 protected:
  Transport transport() const { return std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
};

std::string name_of(const testing::TestParamInfo<std::tuple<Transport, int>>& param) {
  const auto& transport = std::get<0>(param.param);
  return transport.backend + (transport.tcp ? "_tcp_" : "_") +
         std::to_string(std::get<1>(param.param));
}
INSTANTIATE_TEST_SUITE_P(Runtime, Collectives,
                         testing::Combine(testing::ValuesIn(transports()),
                                          testing::Values(1, 2, 3)),
                         name_of);

// Small values, exact in every type: 1 or 2 in a pattern that differs by rank.
int value_at(int rank, size_t i) {
  return 1 + static_cast<int>((i + static_cast<size_t>(rank)) % 2);
}

double expected_at(ReduceOp op, int size, size_t i) {
  double result = value_at(0, i);
  for (int rank = 1; rank < size; ++rank) {
    const double value = value_at(rank, i);
    switch (op) {
      case ReduceOp::kSum:
      case ReduceOp::kAverage:
        result += value;
        break;
      case ReduceOp::kMin:
        result = std::min(result, value);
        break;
      case ReduceOp::kMax:
        result = std::max(result, value);
        break;
      case ReduceOp::kProduct:
        result *= value;
        break;
      case ReduceOp::kAdasum:
        ADD_FAILURE() << "not elementwise";
        break;
    }
  }
  return op == ReduceOp::kAverage ? result / size : result;
}

double read(DataType dtype, const std::byte* at) {
  const auto as = [at]<class T>(T value) {
    std::memcpy(&value, at, sizeof value);
    return static_cast<double>(value);
  };
  float wide = 0;
  switch (dtype) {
    case DataType::kUint8:
      return as(uint8_t{});
    case DataType::kBool:
      return as(uint8_t{}) != 0 ? 1 : 0;
    case DataType::kInt8:
      return as(int8_t{});
    case DataType::kInt16:
      return as(int16_t{});
    case DataType::kInt32:
      return as(int32_t{});
    case DataType::kInt64:
      return as(int64_t{});
    case DataType::kFloat32:
      return as(float{});
    case DataType::kFloat64:
      return as(double{});
    case DataType::kFloat16:
    case DataType::kBfloat16:
      base::widen(dtype, &wide, at, 1);
      return wide;
  }
  return 0;
}

void write(DataType dtype, std::byte* at, int value) {
  const auto as = [at](auto typed) { std::memcpy(at, &typed, sizeof typed); };
  const auto wide = static_cast<float>(value);
  switch (dtype) {
    case DataType::kUint8:
      return as(static_cast<uint8_t>(value));
    case DataType::kBool:
      return as(static_cast<uint8_t>(value - 1));
    case DataType::kInt8:
      return as(static_cast<int8_t>(value));
    case DataType::kInt16:
      return as(static_cast<int16_t>(value));
    case DataType::kInt32:
      return as(static_cast<int32_t>(value));
    case DataType::kInt64:
      return as(static_cast<int64_t>(value));
    case DataType::kFloat32:
      return as(wide);
    case DataType::kFloat64:
      return as(static_cast<double>(value));
    case DataType::kFloat16:
    case DataType::kBfloat16:
      return base::narrow(dtype, at, &wide, 1);
  }
}

TEST_P(Collectives, AllreduceOfEveryTypeAndReduction) {
  constexpr size_t kCount = 37;
  Ranks(size(), transport()).run([&](Engine& engine) {
    for (int d = 0; d < kDataTypeCount; ++d) {
      for (int o = 0; o < kReduceOpCount; ++o) {
        const auto dtype = static_cast<DataType>(d);
        const auto op = static_cast<ReduceOp>(o);
        if (dtype == DataType::kBool && op == ReduceOp::kAverage) continue;
        if (op == ReduceOp::kAdasum) continue;  // not elementwise
        const size_t width = element_size(dtype);
        std::vector<std::byte> input(kCount * width), output(kCount * width);
        for (size_t i = 0; i < kCount; ++i) {
          write(dtype, &input[i * width], value_at(engine.rank(), i));
        }
        TensorView from{input.data(), dtype, {kCount}, {}, nullptr, nullptr, nullptr};
        TensorView to = from;
        to.data = output.data();
        const std::string name = std::string(to_string(dtype)) + "." + std::string(to_string(op));
        const Status status = engine.allreduce_async(name, from, to, with(op))->wait();
        ASSERT_TRUE(status.ok()) << name << ": " << status.to_string();
        for (size_t i = 0; i < kCount; ++i) {
          double expected = expected_at(op, size(), i);
          if (dtype == DataType::kBool) {
            const bool any = size() > 1 || value_at(engine.rank(), i) == 2;
            const bool all = size() == 1 && value_at(engine.rank(), i) == 2;
            expected = op == ReduceOp::kSum || op == ReduceOp::kMax ? any : all;
          } else if (d <= static_cast<int>(DataType::kInt64)) {
            expected = std::trunc(expected);
          }
          const double tolerance = dtype == DataType::kBfloat16  ? 2e-2
                                   : dtype == DataType::kFloat16 ? 2e-3
                                                                 : 1e-6;
          ASSERT_NEAR(read(dtype, &output[i * width]), expected, tolerance)
              << name << " [" << i << "]";
          ASSERT_EQ(read(dtype, &input[i * width]), dtype == DataType::kBool
                                                        ? value_at(engine.rank(), i) - 1
                                                        : value_at(engine.rank(), i))
              << "the input changed";
        }
      }
    }
  });
}

TEST_P(Collectives, ScalesBeforeAndAfter) {
  Ranks(size(), transport()).run([&](Engine& engine) {
    std::vector<float> values(5, static_cast<float>(engine.rank() + 1));
    const auto view = view_of(values);
    ASSERT_TRUE(
        engine.allreduce_async("x", view, view, with(ReduceOp::kSum, 2, 0.25))->wait().ok());
    const float sum = static_cast<float>(size() * (size() + 1)) / 2;
    for (const float value : values) EXPECT_FLOAT_EQ(value, sum * 0.5F);
    // Integers: scaled in float64, truncated toward zero.
    std::vector<int32_t> integers(3, -3);
    const auto ints = view_of(integers, DataType::kInt32);
    ASSERT_TRUE(engine.allreduce_async("i", ints, ints, with(ReduceOp::kSum, 1, 0.5))->wait().ok());
    for (const int32_t value : integers) EXPECT_EQ(value, static_cast<int32_t>(-3 * size() * 0.5));
    ASSERT_TRUE(engine.allreduce_async("a", ints, ints, with(ReduceOp::kAverage))->wait().ok());
  });
}

// Many tensors at once, of all sizes: separate, adjacent in memory, in place and not.
TEST_P(Collectives, FusedTensorsAreRightWhereverTheyLie) {
  for (const bool fuse : {true, false}) {
    Ranks ranks(size(), transport(), [&](EngineOptions* options) {
      options->config.fusion_threshold_bytes = fuse ? 1 << 20 : 0;
    });
    ranks.run([&](Engine& engine) {
      std::vector<float> arena(3000);
      std::vector<std::vector<float>> apart(40), outputs(40);
      for (int step = 0; step < 5; ++step) {
        const auto fill = [&](auto& values, size_t salt) {
          for (size_t i = 0; i < values.size(); ++i) {
            values[i] = static_cast<float>((i + salt) % 7 +
                                           static_cast<size_t>(engine.rank() * (step + 1)));
          }
        };
        fill(arena, 0);
        std::vector<WorkPtr> works;
        for (size_t t = 0; t < 30; ++t) {
          TensorView view = view_of(arena);
          view.data = arena.data() + t * 100;
          view.shape = {10, 10};
          works.push_back(engine.allreduce_async("arena." + std::to_string(t), view, view,
                                                 with(ReduceOp::kSum)));
        }
        for (size_t t = 0; t < apart.size(); ++t) {
          apart[t].resize(t * 11);  // the first is empty
          outputs[t].assign(apart[t].size(), -1);
          fill(apart[t], t);
          works.push_back(engine.allreduce_async("apart." + std::to_string(t), view_of(apart[t]),
                                                 view_of(outputs[t]), with(ReduceOp::kSum, 1, 2)));
        }
        const Status status = wait_all(works);
        ASSERT_TRUE(status.ok()) << status.to_string();
        const auto expected = [&](size_t i, size_t salt) {
          const int ranks_sum = size() * (size() - 1) / 2 * (step + 1);
          return static_cast<float>(static_cast<int>((i + salt) % 7) * size() + ranks_sum);
        };
        for (size_t i = 0; i < arena.size(); ++i) ASSERT_EQ(arena[i], expected(i, 0));
        for (size_t t = 0; t < outputs.size(); ++t) {
          for (size_t i = 0; i < outputs[t].size(); ++i) {
            ASSERT_EQ(outputs[t][i], 2 * expected(i, t)) << t << " " << i;
          }
        }
      }
      const EngineStats stats = engine.stats();
      EXPECT_EQ(stats.operations_submitted, 5U * 70U);
      EXPECT_EQ(stats.operations_done, 5U * 70U);
      if (!fuse) {
        EXPECT_EQ(stats.responses_executed, 5U * 70U);
      }
      EXPECT_LE(stats.responses_executed, 5U * 70U);
      EXPECT_GT(stats.tensors_from_cache, 0U);
    });
  }
}

TEST_P(Collectives, GroupsRunTogether) {
  Ranks(size(), transport()).run([&](Engine& engine) {
    std::vector<float> a(4, 1), b(1000, 2);
    std::vector<double> c(7, 3);
    const std::vector<NamedTensor> members = {
        {"a", view_of(a), view_of(a)},
        {"b", view_of(b), view_of(b)},
        {"c", view_of(c, DataType::kFloat64), view_of(c, DataType::kFloat64)}};
    for (int step = 1; step <= 3; ++step) {
      const auto works = engine.grouped_allreduce_async("g", members, with(ReduceOp::kSum));
      ASSERT_EQ(works.size(), 3U);
      ASSERT_TRUE(wait_all(works).ok());
    }
    EXPECT_EQ(a[3], std::pow(size(), 3));
    EXPECT_EQ(b[999], 2 * std::pow(size(), 3));
    EXPECT_EQ(c[6], 3 * std::pow(size(), 3));
    EXPECT_TRUE(engine.grouped_allreduce_async("none", {}, {}).empty());
    std::fill(b.begin(), b.end(), static_cast<float>(engine.rank()));
    ASSERT_TRUE(wait_all(engine.grouped_broadcast_async("", members, size() - 1)).ok());
    EXPECT_EQ(b[5], static_cast<float>(size() - 1));
  });
}

TEST_P(Collectives, AllgatherOfRaggedRows) {
  Ranks(size(), transport()).run([&](Engine& engine) {
    for (int step = 0; step < 4; ++step) {
      // Rank r has r + step rows of 3, so rank 0 has none in step 0.
      std::vector<std::vector<int32_t>> inputs(5);
      std::vector<WorkPtr> works;
      for (size_t t = 0; t < inputs.size(); ++t) {
        const int rows = engine.rank() + step;
        inputs[t].assign(static_cast<size_t>(rows) * 3, engine.rank() * 100 + static_cast<int>(t));
        TensorView view = view_of(inputs[t], DataType::kInt32);
        view.shape = {rows, 3};
        works.push_back(engine.allgather_async("gather." + std::to_string(t), view));
      }
      for (size_t t = 0; t < works.size(); ++t) {
        const Status status = works[t]->wait();
        ASSERT_TRUE(status.ok()) << status.to_string();
        const TensorView result = works[t]->result();
        const std::vector<int64_t> extents = works[t]->first_extents();
        ASSERT_EQ(extents.size(), static_cast<size_t>(size()));
        const auto* values = static_cast<const int32_t*>(result.data);
        int64_t rows = 0;
        for (int rank = 0; rank < size(); ++rank) {
          ASSERT_EQ(extents[static_cast<size_t>(rank)], rank + step);
          for (int i = 0; i < (rank + step) * 3; ++i) {
            ASSERT_EQ(*values++, rank * 100 + static_cast<int>(t));
          }
          rows += rank + step;
        }
        EXPECT_EQ(result.shape, (Shape{rows, 3}));
        EXPECT_NE(result.owner, nullptr);
      }
    }
  });
}

TEST_P(Collectives, AllgatherOfScalarsAndOfNothing) {
  Ranks(size(), transport()).run([&](Engine& engine) {
    double value = engine.rank();
    TensorView scalar{&value, DataType::kFloat64, {}, {}, nullptr, nullptr, nullptr};
    const WorkPtr work = engine.allgather_async("scalar", scalar);
    ASSERT_TRUE(work->wait().ok());
    EXPECT_EQ(work->result().shape, Shape{size()});
    for (int rank = 0; rank < size(); ++rank) {
      EXPECT_EQ(static_cast<const double*>(work->result().data)[rank], rank);
    }
    TensorView nothing{nullptr, DataType::kFloat64, {0, 4}, {}, nullptr, nullptr, nullptr};
    const WorkPtr empty = engine.allgather_async("nothing", nothing);
    ASSERT_TRUE(empty->wait().ok());
    EXPECT_EQ(empty->result().shape, (Shape{0, 4}));
    ASSERT_TRUE(engine.allreduce_async("none", nothing, nothing, {})->wait().ok());
    ASSERT_TRUE(engine.broadcast_async("none.b", nothing, nothing, 0)->wait().ok());
  });
}

TEST_P(Collectives, BroadcastFromEveryRoot) {
  Ranks(size(), transport()).run([&](Engine& engine) {
    for (int root = 0; root < size(); ++root) {
      std::vector<std::vector<float>> inputs(6), outputs(6);
      std::vector<WorkPtr> works;
      for (size_t t = 0; t < inputs.size(); ++t) {
        inputs[t].assign(1 + t * 50,
                         static_cast<float>(engine.rank() * 10) + static_cast<float>(t));
        outputs[t].assign(inputs[t].size(), -1);
        works.push_back(engine.broadcast_async("b." + std::to_string(t), view_of(inputs[t]),
                                               view_of(outputs[t]), root));
      }
      const Status status = wait_all(works);
      ASSERT_TRUE(status.ok()) << status.to_string();
      for (size_t t = 0; t < inputs.size(); ++t) {
        for (const float value : outputs[t]) {
          ASSERT_EQ(value, static_cast<float>(root * 10) + static_cast<float>(t));
        }
        for (const float value : inputs[t]) {
          ASSERT_EQ(value, static_cast<float>(engine.rank() * 10) + static_cast<float>(t));
        }
      }
    }
  });
}

TEST_P(Collectives, BarriersAndUnnamedOperations) {
  std::atomic<int> before{0};
  Ranks(size(), transport()).run([&](Engine& engine) {
    for (int round = 1; round <= 5; ++round) {
      before.fetch_add(1);
      ASSERT_TRUE(engine.barrier_async()->wait().ok());
      EXPECT_GE(before.load(), round * size());
    }
    std::vector<float> a(3, 1), b(5, 1);
    std::vector<WorkPtr> works;
    for (int i = 0; i < 4; ++i) {
      works.push_back(engine.allreduce_async("", view_of(a), view_of(a), with(ReduceOp::kMax)));
      works.push_back(engine.allreduce_async("", view_of(b), view_of(b), with(ReduceOp::kMax)));
    }
    EXPECT_TRUE(wait_all(works).ok());
    EXPECT_NE(works[0]->name(), works[2]->name());
    EXPECT_FALSE(works[0]->name().empty());
  });
}

}  // namespace
}  // namespace khorus::test
