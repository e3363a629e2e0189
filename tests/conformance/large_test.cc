// Operations on more than 2^31 bytes, where a 32-bit count or length would overflow. In soak only
// (KHORUS_TEST_SOAK=1): it takes 9 GiB of memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/conformance/plugin.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

constexpr size_t kCount = (size_t{1} << 31) + 3;

class Large : public ::testing::TestWithParam<const khorus_backend*> {
 protected:
  void SetUp() override {
    if (std::getenv("KHORUS_TEST_SOAK") == nullptr) GTEST_SKIP() << "in soak only";
  }
};

uint8_t pattern(size_t i) { return static_cast<uint8_t>(i * 2654435761u >> 16); }

TEST_P(Large, AllreduceInPlace) {
  World world(*GetParam(), {.size = 2, .timeout_ms = 120000});
  world.connect();
  world.each([](Member& member) {
    std::vector<uint8_t> data(kCount);
    for (size_t i = 0; i < kCount; ++i) {
      data[i] = static_cast<uint8_t>(pattern(i) * (member.rank() + 1));
    }
    const Status status =
        member.allreduce({DataType::kUint8, ReduceOp::kSum, kCount}, data.data(), data.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    for (size_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(data[i], static_cast<uint8_t>(pattern(i) * 3)) << i;
    }
  });
}

TEST_P(Large, BroadcastAndAllgather) {
  World world(*GetParam(), {.size = 2, .timeout_ms = 120000});
  world.connect();
  world.each([](Member& member) {
    // The gather adds one element in front of what rank 1 has.
    std::vector<uint8_t> data(kCount + 1);
    uint8_t* const block = data.data() + 1;
    if (member.rank() == 1)
      std::generate(block, block + kCount, [i = size_t{0}]() mutable { return pattern(i++); });
    Status status = member.broadcast(DataType::kUint8, kCount, 1, block, block);
    ASSERT_TRUE(status.ok()) << status.to_string();
    ASSERT_EQ(block[kCount - 1], pattern(kCount - 1));
    if (member.rank() == 0) {
      std::fill(data.begin(), data.end(), uint8_t{0});
      data[0] = 77;
    }
    status = member.allgather(DataType::kUint8, {1, kCount},
                              member.rank() == 0 ? data.data() : block, data.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    ASSERT_EQ(data[0], 77);
    for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(block[i], pattern(i)) << i;
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, Large, ::testing::ValuesIn(built_backends()),
                         [](const auto& instance) { return std::string(instance.param->name); });

}  // namespace
}  // namespace khorus::conformance
