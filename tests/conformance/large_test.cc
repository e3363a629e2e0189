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

// A block of more than 2^31 bytes behind a small one, and nothing for rank 0 but that.
TEST_P(Large, AlltoallAndSendRecv) {
  World world(*GetParam(), {.size = 2, .timeout_ms = 120000});
  world.connect();
  world.each([](Member& member) {
    const std::vector<uint64_t> sends[] = {{3, kCount}, {2, 0}};
    const std::vector<uint64_t> receives[] = {{3, 2}, {kCount, 0}};
    const size_t rank = static_cast<size_t>(member.rank());
    std::vector<uint8_t> input(sends[rank][0] + sends[rank][1]);
    std::vector<uint8_t> output(receives[rank][0] + receives[rank][1]);
    std::generate(input.begin(), input.end(), [i = size_t{0}]() mutable { return pattern(i++); });
    Status status =
        member.alltoall(DataType::kUint8, sends[rank], receives[rank], input.data(), output.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    if (rank == 0) {
      ASSERT_EQ(output,
                (std::vector<uint8_t>{pattern(0), pattern(1), pattern(2), pattern(0), pattern(1)}));
    } else {
      for (size_t i = 0; i < kCount; ++i) ASSERT_EQ(output[i], pattern(i + 3)) << i;
    }
    // Back again.
    const size_t counts[] = {0, kCount};
    const void* const sent = rank == 1 ? output.data() : nullptr;
    std::vector<uint8_t>& received = input;
    received.assign(counts[1 - rank], 0);
    status = member.sendrecv({DataType::kUint8, 1 - member.rank(), counts[rank], counts[1 - rank]},
                             sent, received.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    for (size_t i = 0; i < received.size(); ++i) ASSERT_EQ(received[i], pattern(i + 3)) << i;
  });
}

TEST_P(Large, Reducescatter) {
  World world(*GetParam(), {.size = 2, .timeout_ms = 120000});
  world.connect();
  world.each([](Member& member) {
    std::vector<uint8_t> input(kCount + 1);
    for (size_t i = 0; i < input.size(); ++i) {
      input[i] = static_cast<uint8_t>(pattern(i) * (member.rank() + 1));
    }
    std::vector<uint8_t> output(member.rank() == 0 ? 1 : kCount);
    const Status status = member.reducescatter({DataType::kUint8, ReduceOp::kSum, {1, kCount}},
                                               input.data(), output.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    const size_t begin = member.rank() == 0 ? 0 : 1;
    for (size_t i = 0; i < output.size(); ++i) {
      ASSERT_EQ(output[i], static_cast<uint8_t>(pattern(begin + i) * 3)) << i;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Backends, Large, ::testing::ValuesIn(built_backends()),
                         [](const auto& instance) { return std::string(instance.param->name); });

}  // namespace
}  // namespace khorus::conformance
