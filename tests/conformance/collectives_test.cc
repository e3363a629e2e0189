// Allreduce, allgather and broadcast of every backend, over world sizes 1 to 8, against an
// independent reference.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "tests/conformance/matrix.h"
#include "tests/conformance/plugin.h"
#include "tests/conformance/reference.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

class Collectives : public ::testing::TestWithParam<std::tuple<const khorus_backend*, int>> {
 protected:
  const khorus_backend& backend() const { return *std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
};

// One allreduce out of place and one in place, compared with what every rank should get.
void check_allreduce(World& world, const Member::Allreduce& what) {
  const std::vector<Bytes> inputs = inputs_of(what.dtype, what.count, world.size());
  const Bytes expected = reduce_in_rank_order(what.dtype, what.op, inputs);
  ASSERT_TRUE(is_close(what.dtype, what.op, inputs, expected)) << "the references disagree";
  const Reduced reduced{what.dtype, what.op, inputs, expected};
  std::vector<Bytes> outputs(inputs.size());  // by rank; in process tests only the own one
  world.each([&](Member& member) {
    SCOPED_TRACE(name_of(what.dtype, what.op, what.count));
    const Bytes& input = inputs[static_cast<size_t>(member.rank())];
    Bytes memory = input;
    Bytes output(input.size(), std::byte{0x5a});
    Status status = member.allreduce(what, memory.data(), output.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(memory, input) << "the input was written to";
    EXPECT_TRUE(is_promised(member.backend(), reduced, output));
    status = member.allreduce(what, memory.data(), memory.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(memory, output) << "in place";
    outputs[static_cast<size_t>(member.rank())] = output;
  });
  for (const Bytes& output : outputs) {
    EXPECT_TRUE(output.empty() || outputs[0].empty() || output == outputs[0])
        << "ranks have different bits";
  }
}

TEST_P(Collectives, Allreduce) {
  World world(backend(), {.size = size()});
  world.connect();
  for (const DataType dtype : types_for(size())) {
    for (const ReduceOp op : kReductions) {
      for (const size_t count : counts_for(size())) {
        check_allreduce(world, {dtype, op, count});
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Sizes around the limits between the algorithms, and one of several segments with a remainder.
TEST_P(Collectives, AllreduceOfManySizes) {
  if (size() > 4 && (size() < 8 || kThreadSanitizer) && !soak()) GTEST_SKIP() << "in soak only";
  World world(backend(), {.size = size()});
  world.connect();
  for (const size_t count : {size_t{2339}, size_t{2340}, size_t{8187}, size_t{8188}, size_t{8189},
                             size_t{16384}, size_t{524288}, size_t{3 * 524288 + 5}}) {
    if (kThreadSanitizer && count > 10000) break;
    check_allreduce(world, {DataType::kInt32, ReduceOp::kSum, count});
    check_allreduce(world, {DataType::kBfloat16, ReduceOp::kSum, count});
  }
}

// Zeros, infinities and NaN must not differ between the ranks, whatever they come to.
TEST_P(Collectives, SpecialValuesHaveTheSameBitsOnAllRanks) {
  World world(backend(), {.size = size()});
  world.connect();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> values{0.0f, -0.0f, kInfinity, -kInfinity, kNan, 1e-45f, 3e38f};
  for (const size_t count : {size_t{64}, size_t{100000}}) {
    for (const ReduceOp op : kReductions) {
      std::vector<Bytes> outputs(static_cast<size_t>(size()));
      world.each([&](Member& member) {
        Bytes data(count * sizeof(float));
        for (size_t i = 0; i < count; ++i) {
          const size_t pick = i * static_cast<size_t>(member.rank() + 1) + i / values.size();
          std::memcpy(data.data() + i * sizeof(float), &values[pick % values.size()],
                      sizeof(float));
        }
        const Status status =
            member.allreduce({DataType::kFloat32, op, count}, data.data(), data.data());
        ASSERT_TRUE(status.ok()) << status.to_string();
        outputs[static_cast<size_t>(member.rank())] = data;
      });
      for (const Bytes& output : outputs) EXPECT_EQ(output, outputs[0]) << to_string(op);
    }
  }
}

void check_allgather(World& world, DataType dtype, const std::vector<uint64_t>& counts,
                     bool in_place) {
  Bytes expected;
  std::vector<Bytes> inputs;
  std::vector<size_t> offsets;
  for (int r = 0; r < world.size(); ++r) {
    const size_t count = counts[static_cast<size_t>(r)];
    offsets.push_back(expected.size());
    inputs.push_back(make_values(dtype, count, seed_of(dtype, count, r)));
    expected.insert(expected.end(), inputs.back().begin(), inputs.back().end());
  }
  world.each([&](Member& member) {
    const size_t rank = static_cast<size_t>(member.rank());
    Bytes output(expected.size(), std::byte{0x5a});
    const std::byte* input = inputs[rank].data();
    if (in_place && !inputs[rank].empty()) {
      std::memcpy(output.data() + offsets[rank], input, inputs[rank].size());
      input = output.data() + offsets[rank];
    }
    const Status status = member.allgather(dtype, counts, input, output.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(output, expected) << to_string(dtype) << " on rank " << member.rank();
  });
}

TEST_P(Collectives, AllgatherOfRaggedBlocks) {
  World world(backend(), {.size = size()});
  world.connect();
  for (const DataType dtype : types_for(size())) {
    for (const size_t unit : {size_t{0}, size_t{1}, size_t{1000}, kLargeBlock / 4}) {
      for (int pattern = 0; pattern < 3; ++pattern) {
        check_allgather(world, dtype, ragged_counts(size(), unit, pattern), pattern == 1);
      }
    }
    check_allgather(world, dtype, std::vector<uint64_t>(static_cast<size_t>(size()), 0), false);
  }
}

TEST_P(Collectives, BroadcastFromEveryRoot) {
  World world(backend(), {.size = size()});
  world.connect();
  for (const DataType dtype : {DataType::kUint8, DataType::kFloat64}) {
    for (const size_t count : {size_t{0}, size_t{1}, size_t{7}, size_t{1000}, kLargeBlock}) {
      for (int root = 0; root < size(); ++root) {
        const Bytes expected = make_values(dtype, count, seed_of(dtype, count, root));
        const bool in_place = root % 2 == 0;
        world.each([&](Member& member) {
          Bytes input = make_values(dtype, count, seed_of(dtype, count, member.rank()));
          Bytes output(input.size(), std::byte{0x5a});
          void* to = in_place ? input.data() : output.data();
          const Status status = member.broadcast(dtype, count, root, input.data(), to);
          ASSERT_TRUE(status.ok()) << status.to_string();
          EXPECT_EQ(in_place ? input : output, expected) << "root " << root;
        });
      }
    }
  }
}

// Operations of all kinds without a pause, so that fast ranks run ahead of slow ones.
TEST_P(Collectives, MixedSequenceWithoutPause) {
  World world(backend(), {.size = size()});
  world.connect();
  world.each([&](Member& member) {
    std::vector<int64_t> data(9000, 1);
    const std::vector<uint64_t> counts(static_cast<size_t>(size()), 3);
    std::vector<int64_t> gathered(3 * static_cast<size_t>(size()));
    for (int i = 0; i < 60; ++i) {
      const int root = i % size();
      const size_t count = i % 3 == 0 ? 9000 : 5;
      data.assign(9000, member.rank() == root ? i : -1);
      ASSERT_TRUE(member.broadcast(DataType::kInt64, count, root, data.data(), data.data()).ok());
      ASSERT_EQ(data[count - 1], i);
      ASSERT_TRUE(
          member.allreduce({DataType::kInt64, ReduceOp::kSum, count}, data.data(), data.data())
              .ok());
      ASSERT_EQ(data[0], i * size());
      data.assign(3, member.rank());
      ASSERT_TRUE(member.allgather(DataType::kInt64, counts, data.data(), gathered.data()).ok());
      ASSERT_EQ(gathered.back(), size() - 1);
    }
  });
}

TEST_P(Collectives, SeveralCommunicatorsAtOnce) {
  constexpr int kWorlds = 3;
  std::vector<std::unique_ptr<World>> worlds;
  for (int i = 0; i < kWorlds; ++i) {
    worlds.push_back(std::make_unique<World>(backend(), WorldOptions{.size = size()}));
  }
  std::vector<std::jthread> threads;
  for (auto& world : worlds) {
    threads.emplace_back([&one = *world] {
      one.connect();
      check_allreduce(one, {DataType::kFloat32, ReduceOp::kSum, 1000});
      check_allreduce(one, {DataType::kFloat16, ReduceOp::kSum, 65537});
    });
  }
}

std::string instance_name(const ::testing::TestParamInfo<Collectives::ParamType>& info) {
  return std::string(std::get<0>(info.param)->name) + "_" + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Backends, Collectives,
                         ::testing::Combine(::testing::ValuesIn(built_backends()),
                                            ::testing::ValuesIn(world_sizes())),
                         instance_name);

uint8_t device_of(const khorus_backend& backend) {
  return static_cast<uint8_t>(backend.finish == nullptr ? DeviceKind::kCpu : DeviceKind::kCuda);
}

TEST(Contract, StructsAreWhatTheHeaderSays) {
  ASSERT_FALSE(built_backends().empty());
  for (const khorus_backend* backend : built_backends()) {
    EXPECT_EQ(backend->struct_size, sizeof(khorus_backend));
    EXPECT_EQ(backend->abi_version, static_cast<uint32_t>(KHORUS_BACKEND_ABI));
    EXPECT_STRNE(backend->version, "");
    khorus_error error{};
    EXPECT_EQ(backend->probe(&error), 0) << error.message;
    const uint8_t own = device_of(*backend);
    EXPECT_EQ(backend->supports(0, 7, 0, own), 1) << "a float32 sum";
    EXPECT_EQ(backend->supports(0, 7, 1, own), 0) << "Average is the engine's";
    EXPECT_EQ(backend->supports(0, kDataTypeCount, 0, own), 0);
    EXPECT_EQ(backend->supports(0, 7, 0, 1 - own), 0) << "the other device";
    for (const OpKind kind : {OpKind::kBarrier, OpKind::kExchange, OpKind::kJoin,
                              OpKind::kAddProcessSet, OpKind::kRemoveProcessSet}) {
      EXPECT_EQ(backend->supports(static_cast<uint8_t>(kind), 7, 0, own), 0)
          << to_string(kind) << " needs no data plane";
    }
  }
}

// What the engine counts on: every type and reduction of every operation.
TEST(Contract, BackendsSupportEverything) {
  for (const khorus_backend* backend : built_backends()) {
    EXPECT_EQ(backend->order == nullptr, backend->finish == nullptr);
    for (const DataType dtype : all_types()) {
      const uint8_t type = static_cast<uint8_t>(dtype);
      for (const OpKind kind :
           {OpKind::kAllgather, OpKind::kBroadcast, OpKind::kAlltoall, OpKind::kSendRecv}) {
        EXPECT_EQ(backend->supports(static_cast<uint8_t>(kind), type, 0, device_of(*backend)), 1)
            << backend->name << ' ' << to_string(kind) << ' ' << to_string(dtype);
      }
      for (const OpKind kind : {OpKind::kAllreduce, OpKind::kReducescatter}) {
        const auto supports = [&](ReduceOp op) {
          return backend->supports(static_cast<uint8_t>(kind), type, static_cast<uint8_t>(op),
                                   device_of(*backend));
        };
        for (const ReduceOp op : kReductions) EXPECT_EQ(supports(op), 1) << to_string(op);
        EXPECT_EQ(supports(ReduceOp::kAverage), 0) << "the engine scales";
        // On the CPU the engine makes it of messages.
        const bool is_made = backend->finish != nullptr && kind == OpKind::kAllreduce &&
                             dtype >= DataType::kFloat16 && dtype <= DataType::kFloat64;
        EXPECT_EQ(supports(ReduceOp::kAdasum), is_made ? 1 : 0) << to_string(dtype);
      }
    }
  }
}

}  // namespace
}  // namespace khorus::conformance
