// Alltoall and reducescatter of every backend, over world sizes 1 to 8, against an independent
// reference: even, uneven and empty blocks, of every type.
#include <gtest/gtest.h>

#include <cstddef>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "tests/conformance/matrix.h"
#include "tests/conformance/plugin.h"
#include "tests/conformance/reference.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

class Blocks : public ::testing::TestWithParam<std::tuple<const khorus_backend*, int>> {
 protected:
  const khorus_backend& backend() const { return *std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
};

using Counts = std::vector<uint64_t>;

uint64_t total(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

// The part of `values` that is block `rank`.
Bytes block_of(const Bytes& values, const Counts& counts, size_t rank, DataType dtype) {
  const auto width = static_cast<std::ptrdiff_t>(element_size(dtype));
  const auto before = static_cast<std::ptrdiff_t>(
      total(Counts(counts.begin(), counts.begin() + static_cast<std::ptrdiff_t>(rank))));
  const auto count = static_cast<std::ptrdiff_t>(counts[rank]);
  return Bytes(values.begin() + before * width, values.begin() + (before + count) * width);
}

// sends[i][j]: what rank i sends to rank j.
void check_alltoall(World& world, DataType dtype, const std::vector<Counts>& sends) {
  const size_t size = sends.size();
  std::vector<Bytes> inputs;
  for (size_t r = 0; r < size; ++r) {
    const uint64_t count = total(sends[r]);
    inputs.push_back(make_values(dtype, count, seed_of(dtype, count, static_cast<int>(r))));
  }
  world.each([&](Member& member) {
    const size_t rank = static_cast<size_t>(member.rank());
    Counts received;
    Bytes expected;
    for (size_t r = 0; r < size; ++r) {
      received.push_back(sends[r][rank]);
      const Bytes block = block_of(inputs[r], sends[r], rank, dtype);
      expected.insert(expected.end(), block.begin(), block.end());
    }
    const Bytes input = inputs[rank];
    Bytes output(expected.size(), std::byte{0x5a});
    const Status status =
        member.alltoall(dtype, sends[rank], received, input.data(), output.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_EQ(output, expected) << to_string(dtype) << " on rank " << rank;
    EXPECT_EQ(input, inputs[rank]) << "the input was written to";
  });
}

// Who sends how much to whom: even; ragged, with zeros; all to one rank; one rank to all.
std::vector<std::vector<Counts>> matrices(int ranks, size_t unit) {
  const size_t size = static_cast<size_t>(ranks);
  const std::vector<Counts> none(size, Counts(size, 0));
  std::vector<std::vector<Counts>> all(4, none);
  for (size_t i = 0; i < size; ++i) {
    all[1][i] = ragged_counts(ranks, unit, static_cast<int>(i));
    all[2][i][size - 1] = unit + i;
    all[3][size / 2][i] = unit + i;
    for (size_t j = 0; j < size; ++j) all[0][i][j] = unit;
  }
  return all;
}

TEST_P(Blocks, AlltoallOfEvenAndUnevenBlocks) {
  World world(backend(), {.size = size()});
  world.connect();
  for (const DataType dtype : types_for(size())) {
    for (const size_t unit : {size_t{0}, size_t{1}, size_t{1000}, kLargeBlock / 16}) {
      for (const auto& sends : matrices(size(), unit)) {
        check_alltoall(world, dtype, sends);
        if (HasFatalFailure()) return;
      }
    }
  }
  check_alltoall(world, DataType::kFloat32, matrices(size(), kLargeBlock)[1]);
}

// What each rank has of block `rank`.
std::vector<Bytes> blocks_of(const Member::Reducescatter& what, size_t rank,
                             const std::vector<Bytes>& inputs) {
  std::vector<Bytes> blocks;
  for (const Bytes& input : inputs)
    blocks.push_back(block_of(input, what.counts, rank, what.dtype));
  return blocks;
}

void check_reducescatter(World& world, const Member::Reducescatter& what) {
  const uint64_t count = total(what.counts);
  const std::vector<Bytes> inputs = inputs_of(what.dtype, count, world.size());
  const Bytes reduced = reduce_in_rank_order(what.dtype, what.op, inputs);
  ASSERT_TRUE(is_close(what.dtype, what.op, inputs, reduced)) << "the references disagree";
  world.each([&](Member& member) {
    SCOPED_TRACE(name_of(what.dtype, what.op, count));
    const size_t rank = static_cast<size_t>(member.rank());
    const Bytes expected = block_of(reduced, what.counts, rank, what.dtype);
    const Bytes input = inputs[rank];
    Bytes output(expected.size(), std::byte{0x5a});
    const Status status = member.reducescatter(what, input.data(), output.data());
    ASSERT_TRUE(status.ok()) << status.to_string();
    // The same bits as that part of an allreduce, where those are in rank order.
    EXPECT_TRUE(is_promised(member.backend(),
                            {what.dtype, what.op, blocks_of(what, rank, inputs), expected}, output))
        << "rank " << rank;
    EXPECT_EQ(input, inputs[rank]) << "the input was written to";
  });
}

TEST_P(Blocks, ReducescatterOfEvenAndUnevenBlocks) {
  World world(backend(), {.size = size()});
  world.connect();
  for (const DataType dtype : types_for(size())) {
    for (const ReduceOp op : kReductions) {
      for (const size_t count : counts_for(size())) {
        const size_t unit = count / static_cast<size_t>(size());
        check_reducescatter(world, {dtype, op, Counts(static_cast<size_t>(size()), unit)});
        check_reducescatter(world,
                            {dtype, op, ragged_counts(size(), unit, static_cast<int>(count % 3))});
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Blocks of several segments, with a remainder; some ranks reduce while others have nothing to do.
TEST_P(Blocks, ReducescatterOfLongBlocks) {
  if (size() > 4 && (size() < 8 || kThreadSanitizer) && !soak()) GTEST_SKIP() << "in soak only";
  World world(backend(), {.size = size()});
  world.connect();
  for (const DataType dtype : {DataType::kInt64, DataType::kBfloat16}) {
    const size_t unit = kThreadSanitizer ? 9001 : (size_t{1} << 20) / element_size(dtype) + 5;
    Counts counts(static_cast<size_t>(size()), 3);
    counts.back() = 3 * unit;
    check_reducescatter(world, {dtype, ReduceOp::kSum, counts});
    check_reducescatter(world, {dtype, ReduceOp::kSum, ragged_counts(size(), unit, 1)});
    if (HasFatalFailure()) return;
  }
}

std::string instance_name(const ::testing::TestParamInfo<Blocks::ParamType>& info) {
  return std::string(std::get<0>(info.param)->name) + "_" + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Backends, Blocks,
                         ::testing::Combine(::testing::ValuesIn(built_backends()),
                                            ::testing::ValuesIn(world_sizes())),
                         instance_name);

}  // namespace
}  // namespace khorus::conformance
