// The memory that a backend lends: what is reduced there has the bits of what is reduced elsewhere,
// whoever of the ranks keeps what where. And the scaling that a backend does itself.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "core/base/reduce.h"
#include "tests/conformance/matrix.h"
#include "tests/conformance/plugin.h"
#include "tests/conformance/reference.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

class Arenas : public ::testing::TestWithParam<std::tuple<const khorus_backend*, int>> {
 protected:
  void SetUp() override {
    if (backend().allocate == nullptr) GTEST_SKIP() << "lends no memory";
    if (backend().finish != nullptr) GTEST_SKIP() << "lends memory of a device";
  }
  const khorus_backend& backend() const { return *std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
};

// An operation with what every rank puts in and gets.
struct Case {
  Case(Member::Allreduce operation, int size)
      : what(operation),
        inputs(inputs_of(what.dtype, what.count, size)),
        expected(reduce_in_rank_order(what.dtype, what.op, inputs)) {
    base::scale(what.dtype, expected.data(), what.count, what.scale);
  }
  // In place, in memory that may be anybody's.
  void check_at(Member& member, std::byte* memory) const {
    SCOPED_TRACE(name_of(what.dtype, what.op, what.count));
    const Bytes& input = inputs[static_cast<size_t>(member.rank())];
    std::memcpy(memory, input.data(), input.size());
    const Status status = member.allreduce(what, memory, memory);
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(std::memcmp(memory, expected.data(), expected.size()), 0);
  }

  const Member::Allreduce what;
  const std::vector<Bytes> inputs;
  Bytes expected;
};

constexpr size_t kCount = kThreadSanitizer ? 20011 : 300007;
constexpr size_t kBytes = (kCount + 64) * sizeof(double);
using Memory = std::shared_ptr<std::byte>;

// By rank, of those that are here.
std::vector<Memory> allocate(World& world) {
  std::vector<Memory> arenas(static_cast<size_t>(world.size()));
  world.each([&](Member& member) {
    Memory& arena = arenas[static_cast<size_t>(member.rank())];
    arena = member.allocate(kBytes);
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arena.get()) % 64, 0U);
  });
  return arenas;
}

// The first times the others do not have the memory yet. Ranks need not agree on the place in it.
TEST_P(Arenas, AllreduceHasTheBitsOfOrdinaryMemory) {
  World world(backend(), {.size = size()});
  world.connect();
  const std::vector<Memory> arenas = allocate(world);
  for (const DataType dtype : types_for(size())) {
    for (const ReduceOp op : kReductions) {
      for (const size_t count : {size_t{1}, size_t{20000}, kCount}) {
        const Case one({dtype, op, count}, size());
        world.each([&](Member& member) {
          const auto rank = static_cast<size_t>(member.rank());
          one.check_at(member, arenas[rank].get() + rank * element_size(dtype));
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(Arenas, ScalesAsASecondStep) {
  World world(backend(), {.size = size()});
  world.connect();
  const std::vector<Memory> arenas = allocate(world);
  for (const DataType dtype : types_for(size())) {
    for (const size_t count : {size_t{7}, kCount}) {
      const Case one({dtype, ReduceOp::kSum, count, 1.0 / 3}, size());
      world.each([&](Member& member) {
        std::byte* const arena = arenas[static_cast<size_t>(member.rank())].get();
        for (int round = 0; round < 3; ++round) one.check_at(member, arena);
        std::vector<std::byte> ordinary(kBytes);
        one.check_at(member, ordinary.data());
      });
    }
  }
}

// Who has the tensor in an arena, and in which one, differs by rank and from one operation to the
// next; arenas come and go meanwhile.
TEST_P(Arenas, RanksMayDiffer) {
  World world(backend(), {.size = size()});
  world.connect();
  const Case one({DataType::kFloat32, ReduceOp::kSum, kCount}, size());
  world.each([&](Member& member) {
    std::vector<std::byte> ordinary(kBytes);
    std::vector<Memory> arenas;
    for (int round = 0; round < 60; ++round) {
      const int number = round / 7 + member.rank();
      if (round % 7 == 0 && number % 3 != 2) arenas.push_back(member.allocate(kBytes));
      if (round % 7 == 3 && arenas.size() > 2) arenas.erase(arenas.begin());
      const bool in_arena = !arenas.empty() && (round % 5 != 0 || member.rank() != 0);
      one.check_at(member, in_arena ? arenas.back().get() : ordinary.data());
      if (HasFatalFailure()) return;
    }
  });
}

TEST_P(Arenas, OutliveTheGroup) {
  std::vector<Memory> arenas;
  {
    World world(backend(), {.size = size()});
    world.connect();
    arenas = allocate(world);
    const Case one({DataType::kFloat32, ReduceOp::kSum, kCount}, size());
    world.each([&](Member& member) {
      for (int round = 0; round < 3; ++round) {
        one.check_at(member, arenas[static_cast<size_t>(member.rank())].get());
      }
      member.disconnect();
    });
  }
  for (const Memory& arena : arenas) {
    if (arena != nullptr) std::memset(arena.get(), 1, kBytes);
  }
}

std::string instance_name(
    const ::testing::TestParamInfo<std::tuple<const khorus_backend*, int>>& instance) {
  return std::string(std::get<0>(instance.param)->name) + "_" +
         std::to_string(std::get<1>(instance.param));
}

INSTANTIATE_TEST_SUITE_P(Backends, Arenas,
                         ::testing::Combine(::testing::ValuesIn(built_backends()),
                                            ::testing::Values(2, 3, 5)),
                         instance_name);

}  // namespace
}  // namespace khorus::conformance
