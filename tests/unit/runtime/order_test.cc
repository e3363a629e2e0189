// Ranks that submit in different random orders, from several threads, get the right results.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

class Order : public testing::TestWithParam<Transport> {};
INSTANTIATE_TEST_SUITE_P(Runtime, Order, testing::ValuesIn(transports()),
                         testing::PrintToStringParamName());

TEST_P(Order, AnyOrderFromAnyThread) {
  constexpr int kSize = 3;
  constexpr int kTensors = 60;
  constexpr int kThreads = 3;
  const int steps = 8 * soak_factor(50);
  Ranks(kSize, GetParam()).run([&](Engine& engine) {
    std::vector<std::vector<float>> tensors(kTensors);
    for (int step = 0; step < steps; ++step) {
      std::vector<int> order(kTensors);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(),
                   std::mt19937(static_cast<unsigned>(step * kSize + engine.rank())));
      for (int t = 0; t < kTensors; ++t) {
        tensors[static_cast<size_t>(t)].assign(static_cast<size_t>(1 + t * 13),
                                               static_cast<float>(engine.rank() + t + step));
      }
      std::vector<std::thread> threads;
      for (int thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
          std::vector<WorkPtr> works;
          for (int i = thread; i < kTensors; i += kThreads) {
            const int t = order[static_cast<size_t>(i)];
            const TensorView view = view_of(tensors[static_cast<size_t>(t)]);
            works.push_back(
                engine.allreduce_async("t." + std::to_string(t), view, view, with(ReduceOp::kSum)));
          }
          std::reverse(works.begin(), works.end());
          const Status status = wait_all(works);
          EXPECT_TRUE(status.ok()) << status.to_string();
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (int t = 0; t < kTensors; ++t) {
        const auto expected = static_cast<float>(kSize * (t + step) + kSize * (kSize - 1) / 2);
        for (const float value : tensors[static_cast<size_t>(t)]) ASSERT_EQ(value, expected);
      }
    }
  });
}

}  // namespace
}  // namespace khorus::test
