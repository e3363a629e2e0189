// Many runs of the device's memory that are copied and scaled at once: by the kernels and by what
// stands in for them, on the double or on a GPU. Every byte of the target is compared with what the
// CPU's arithmetic gives, also those that no move is to touch.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "backends/nccl/device.h"
#include "backends/nccl/driver.h"
#include "backends/nccl/mover.h"
#include "core/base/reduce.h"

namespace khorus::test {
namespace {

using backends::nccl::Device;
using backends::nccl::DeviceScope;
using backends::nccl::Driver;
using backends::nccl::Module;
using backends::nccl::MoveList;
using backends::nccl::Mover;
using backends::nccl::Progress;
using backends::nccl::Scaling;
using Bytes = std::vector<std::byte>;

// With 0 for a bit of the exponent where all are 1: neither infinity nor NaN, whose payload a GPU
// does not keep.
template <class T>
void make_finite(Bytes& bytes, T exponent) {
  for (size_t i = 0; i + sizeof(T) <= bytes.size(); i += sizeof(T)) {
    T bits = 0;
    std::memcpy(&bits, bytes.data() + i, sizeof bits);
    if ((bits & exponent) == exponent) bits = static_cast<T>(bits & ~(exponent & -exponent));
    std::memcpy(bytes.data() + i, &bits, sizeof bits);
  }
}

Bytes random_values(DataType dtype, size_t bytes, uint32_t seed) {
  std::mt19937 random(seed);
  Bytes values(bytes);
  for (std::byte& value : values) value = static_cast<std::byte>(random());
  if (dtype == DataType::kFloat16) make_finite<uint16_t>(values, 0x7c00);
  if (dtype == DataType::kBfloat16) make_finite<uint16_t>(values, 0x7f80);
  if (dtype == DataType::kFloat32) make_finite<uint32_t>(values, 0x7f800000);
  if (dtype == DataType::kFloat64) make_finite<uint64_t>(values, 0x7ff0000000000000);
  return values;
}

// A run, as offsets into the source and the target.
struct Range {
  size_t from;
  size_t to;
  size_t bytes;
};

void apply(const MoveList& list, const std::vector<Range>& runs, const Bytes& source,
           Bytes* target) {
  for (const Range& run : runs) {
    Bytes values(source.begin() + static_cast<std::ptrdiff_t>(run.from),
                 source.begin() + static_cast<std::ptrdiff_t>(run.from + run.bytes));
    const size_t count = run.bytes / element_size(list.dtype);
    base::scale(list.dtype, values.data(), count, list.scaling.factor);
    if (list.scaling.divisor != 1) {
      base::divide(list.dtype, values.data(), count, list.scaling.divisor);
    }
    std::copy(values.begin(), values.end(), target->begin() + static_cast<std::ptrdiff_t>(run.to));
  }
}

// The parameter: whether there are kernels.
class Moves : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const Driver& driver = **Driver::load();
    device_ = Device::open(driver, 0).value();
    scope_.emplace(driver, device_->context());
    std::unique_ptr<Module> module;
    if (GetParam()) {
      auto loaded = Module::load(driver, device_->context());
      ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
      module = std::move(*loaded);
    }
    mover_.emplace(*device_, std::move(module));
  }
  void TearDown() override {
    synchronise();
    for (const CUdeviceptr block : blocks_) device_->driver().mem_free(block);
  }

  // Memory of the device with these bytes, until the end of the test. They are kept, too.
  std::byte* put(Bytes bytes) {
    CUdeviceptr& block = blocks_.emplace_back();
    EXPECT_EQ(device_->driver().mem_alloc(&block, bytes.size()), CUDA_SUCCESS);
    sources_.push_back(std::move(bytes));
    auto* const address = reinterpret_cast<std::byte*>(block);
    EXPECT_TRUE(
        device_->copy_from_host(address, sources_.back().data(), sources_.back().size()).ok());
    return address;
  }
  Bytes get(const std::byte* from, size_t bytes) {
    Bytes values(bytes);
    EXPECT_TRUE(device_->copy_to_host(values.data(), from, bytes).ok());
    synchronise();
    return values;
  }
  void synchronise() {
    ASSERT_EQ(device_->driver().stream_synchronize(device_->stream()), CUDA_SUCCESS);
  }
  void move(MoveList list, const std::byte* source, std::byte* target,
            const std::vector<Range>& runs) {
    for (const Range& run : runs) list.add(target + run.to, source + run.from, run.bytes);
    ASSERT_TRUE(mover_->upload({&list}).ok());
    const Status status = mover_->run(list);
    ASSERT_TRUE(status.ok()) << status.to_string();
  }

  std::unique_ptr<Device> device_;
  std::optional<DeviceScope> scope_;
  std::optional<Mover> mover_;
  std::vector<CUdeviceptr> blocks_;
  std::deque<Bytes> sources_;  // copies read them later
};
INSTANTIATE_TEST_SUITE_P(By, Moves, testing::Bool(), [](const auto& kind) {
  return kind.param ? std::string("kernels") : std::string("copies");
});

std::vector<Scaling> scalings_of(DataType dtype) {
  std::vector<Scaling> all = {{1.0, 1}, {0.37, 1}, {-2.5, 1}};
  if (dtype <= DataType::kInt64) all.insert(all.end(), {{1.0, 3}, {5.0, 7}});
  return all;
}

// From every offset to every other, against 16 bytes, and lengths on both sides of what a thread, a
// vector and a chunk are.
std::vector<Range> runs_of(size_t width, size_t* source_bytes, size_t* target_bytes) {
  const size_t chunk = backends::nccl::kChunkBytes / width;
  const size_t counts[] = {1, 2, 7, 16, 33, 300, 4096 / width, chunk - 1, chunk, chunk + 1};
  std::vector<Range> runs;
  *source_bytes = *target_bytes = 0;
  size_t i = 0;
  for (size_t from = 0; from < 16; ++from) {
    for (size_t to = 0; to < 16; ++to) {
      // Most are aligned to their elements.
      if (i++ % 8 != 0 && (from % width != 0 || to % width != 0)) continue;
      const size_t bytes = counts[i % std::size(counts)] * width;
      runs.push_back({*source_bytes + from, *target_bytes + to, bytes});
      *source_bytes += (bytes + 63) / 32 * 32;
      *target_bytes += (bytes + 63) / 32 * 32;
    }
  }
  return runs;
}

TEST_P(Moves, EveryTypeIsScaledAsOnTheCpu) {
  for (int type = 0; type < kDataTypeCount; ++type) {
    const auto dtype = static_cast<DataType>(type);
    size_t source_bytes = 0, target_bytes = 0;
    const std::vector<Range> runs = runs_of(element_size(dtype), &source_bytes, &target_bytes);
    const Bytes values = random_values(dtype, source_bytes, 1);
    const Bytes before = random_values(dtype, target_bytes, 2);
    // Elements that are not aligned are made of other bytes.
    Bytes source = values;
    for (const Range& run : runs) {
      std::copy_n(values.begin(), run.bytes,
                  source.begin() + static_cast<std::ptrdiff_t>(run.from));
    }
    const std::byte* const from = put(source);
    for (const Scaling& scaling : scalings_of(dtype)) {
      SCOPED_TRACE(std::string(to_string(dtype)) + " * " + std::to_string(scaling.factor) + " / " +
                   std::to_string(scaling.divisor));
      const MoveList list{.dtype = dtype, .scaling = scaling};
      std::byte* const to = put(before);
      move(list, from, to, runs);
      Bytes expected = before;
      apply(list, runs, source, &expected);
      EXPECT_TRUE(get(to, target_bytes) == expected);
    }
  }
}

TEST_P(Moves, MemoryIsScaledWhereItLies) {
  const MoveList list{.dtype = DataType::kInt16, .scaling = {1.0, 5}};
  const Bytes before = random_values(list.dtype, 200000, 3);
  const std::vector<Range> runs = {{2, 2, 2}, {6, 6, 100000}, {150000, 150000, 49998}};
  std::byte* const memory = put(before);
  move(list, memory, memory, runs);
  Bytes expected = before;
  apply(list, runs, before, &expected);
  EXPECT_TRUE(get(memory, before.size()) == expected);
}

// Thousands of tensors of very different sizes, side by side and back.
TEST_P(Moves, ThousandsGoTogether) {
  std::mt19937 random(4);
  const MoveList list{.dtype = DataType::kFloat32, .scaling = {0.25, 1}};
  std::vector<Range> in, out;
  size_t apart = 0, together = 0;
  for (int i = 0; i < 3000; ++i) {
    const size_t count = i == 1000 ? 300000 : i % 3 == 0 ? 1 : random() % 60 + 1;
    in.push_back({apart, together, count * 4});
    out.push_back({together, apart, count * 4});
    apart += (count * 4 + 15) / 16 * 16;
    together += count * 4;
  }
  const Bytes source = random_values(list.dtype, apart, 5);
  const Bytes zeros(apart);
  std::byte* const staging = put(Bytes(together));
  std::byte* const target = put(zeros);
  move({}, put(source), staging, in);
  move(list, staging, target, out);
  Bytes packed(together), expected = zeros;
  apply({}, in, source, &packed);
  apply(list, out, packed, &expected);
  EXPECT_TRUE(get(staging, together) == packed);
  EXPECT_TRUE(get(target, apart) == expected);
}

// Each has a table of its own in pinned memory until the device has it; then others get it.
TEST_P(Moves, SeveralOperationsMayBeUnderWay) {
  const Bytes source = random_values(DataType::kUint8, 10000, 6);
  const std::byte* const from = put(source);
  for (int round = 0; round < 3; ++round) {
    std::atomic<bool> go{false};
    ASSERT_TRUE(
        device_->call([](void* data) { static_cast<std::atomic<bool>*>(data)->wait(false); }, &go)
            .ok());
    std::vector<std::byte*> targets;
    std::vector<Bytes> expected;
    for (size_t i = 0; i < 20; ++i) {
      const std::vector<Range> runs = {{i, 0, 100 + i}, {5000 - i, 500, 1000}, {i, 2000, 1}};
      targets.push_back(put(Bytes(3000)));
      move({}, from, targets.back(), runs);
      expected.emplace_back(3000);
      apply({}, runs, source, &expected.back());
    }
    go = true;
    go.notify_all();
    for (size_t i = 0; i < targets.size(); ++i) {
      EXPECT_TRUE(get(targets[i], 3000) == expected[i]) << i;
    }
  }
}

TEST_P(Moves, NothingToDoIsNothing) {
  MoveList none;
  std::byte* const memory = put(Bytes(16));
  none.add(memory, memory + 1, 0);
  none.add(memory, memory, 16);
  EXPECT_TRUE(none.moves.empty());
  EXPECT_TRUE(mover_->upload({&none}).ok());
  EXPECT_TRUE(mover_->run(none).ok());
}

}  // namespace
}  // namespace khorus::test
