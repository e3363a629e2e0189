// Memory of the device that is lent, given back and lent again, on the double: that it is zeroed
// each time, how much is kept and when it goes, and that whoever uses it for longer than he has it
// is found out.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "backends/nccl/device.h"
#include "backends/nccl/driver.h"
#include "backends/nccl/memory_pool.h"

namespace khorus::test {
namespace {

using backends::nccl::Device;
using backends::nccl::DeviceScope;
using backends::nccl::Driver;
using backends::nccl::MemoryPool;
using Bytes = std::vector<std::byte>;

const Driver& driver() { return **Driver::load(); }

// A pool, and a stream that uses what it lends.
class LentMemory : public testing::Test {
 protected:
  static constexpr MemoryPool::Limits kLimits = {.bytes = 100000, .blocks = 8};

  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    ASSERT_TRUE(Driver::load().ok()) << Driver::load().status().to_string();
    device_ = Device::open(driver(), 0).value();
    context_ = device_->context();
    pool_ = MemoryPool::make(driver(), 0, kLimits).value();
    void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    get_info_ = reinterpret_cast<decltype(get_info_)>(::dlsym(library, "cuMemGetInfo_v2"));
    ::dlclose(library);
    ASSERT_NE(get_info_, nullptr);
  }
  khorus_memory lend(size_t bytes) { return pool_->lend(bytes).value(); }
  static void release(const khorus_memory& memory) { memory.release(memory.owner); }
  // Puts work on it into the stream.
  void fill(const khorus_memory& memory) {
    const DeviceScope scope(driver(), context_);
    ASSERT_TRUE(device_->copy_from_host(memory.data, ones_.data(), ones_.size()).ok());
  }
  void read(const khorus_memory& memory) {
    const DeviceScope scope(driver(), context_);
    ASSERT_TRUE(device_->copy_to_host(back_.data(), memory.data, back_.size()).ok());
  }
  void synchronise() {
    const DeviceScope scope(driver(), context_);
    ASSERT_EQ(driver().stream_synchronize(device_->stream()), CUDA_SUCCESS);
  }
  // Bytes, of all devices.
  size_t allocated() const {
    size_t free = 0;
    size_t total = 0;
    const DeviceScope scope(driver(), context_);
    EXPECT_EQ(get_info_(&free, &total), CUDA_SUCCESS);
    return total - free;
  }

  std::unique_ptr<Device> device_;
  CUcontext context_ = nullptr;
  decltype(&::cuMemGetInfo) get_info_ = nullptr;
  std::shared_ptr<MemoryPool> pool_;
  const Bytes ones_ = Bytes(1000, std::byte{1});
  Bytes back_ = Bytes(1000, std::byte{7});
};

TEST_F(LentMemory, IsZeroedEachTime) {
  void* first = nullptr;
  for (int round = 0; round < 3; ++round) {
    const khorus_memory memory = lend(1000);
    if (round == 0) first = memory.data;
    EXPECT_EQ(memory.data, first) << "what came back is lent again";
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data) % 64, 0u);
    read(memory);
    synchronise();
    EXPECT_EQ(back_, Bytes(1000));
    fill(memory);
    synchronise();
    release(memory);
  }
}

TEST_F(LentMemory, IsNotMuchLargerThanAskedFor) {
  const khorus_memory large = lend(64 << 10), small = lend(1000);
  release(large);
  release(small);
  const khorus_memory some = lend(1000);
  EXPECT_EQ(some.data, small.data) << "the smallest that is large enough";
  const khorus_memory more = lend(1000);
  EXPECT_NE(more.data, large.data);
  const khorus_memory half = lend(40 << 10);
  EXPECT_EQ(half.data, large.data);
  for (const khorus_memory& memory : {some, more, half}) release(memory);
}

TEST_F(LentMemory, IsKeptWithinLimits) {
  const size_t before = allocated();
  release(lend(kLimits.bytes + 1));
  EXPECT_EQ(allocated(), before) << "too large to be kept";
  const khorus_memory old = lend(60000), young = lend(60000);
  release(old);
  release(young);
  EXPECT_LE(pool_->kept_bytes(), kLimits.bytes);
  EXPECT_EQ(allocated() - before, pool_->kept_bytes());
  const khorus_memory again = lend(60000);
  EXPECT_EQ(again.data, young.data) << "what has lain there longest went";
  release(again);

  std::vector<khorus_memory> many;
  for (int i = 0; i < 20; ++i) many.push_back(lend(512));
  for (const khorus_memory& memory : many) release(memory);
  EXPECT_EQ(pool_->kept_bytes(), kLimits.blocks * 512);
  EXPECT_EQ(allocated() - before, pool_->kept_bytes());
}

TEST_F(LentMemory, IsFreedWhenTheDriverHasNoneLeft) {
  const khorus_memory small = lend(1000);
  release(lend(50000));
  ::setenv("KHORUS_DOUBLE_MEMORY", std::to_string(allocated()).c_str(), 1);
  const Result<khorus_memory> other = pool_->lend(20000);
  const size_t kept = pool_->kept_bytes();
  const Result<khorus_memory> none = pool_->lend(50000);
  ::unsetenv("KHORUS_DOUBLE_MEMORY");
  ASSERT_TRUE(other.ok()) << other.status().to_string();
  EXPECT_EQ(kept, 0u);
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.status().message().find("GPU 0: cuMemAlloc failed: "), std::string::npos)
      << none.status().to_string();
  release(*other);
  release(small);
}

TEST_F(LentMemory, OutlivesEverybodyAndIsFreedWithTheLast) {
  const size_t before = allocated();
  khorus_memory kept = lend(1000);
  release(lend(5000));
  pool_.reset();
  std::thread([&] {
    fill(kept);
    synchronise();
    EXPECT_GT(allocated(), before);
    release(kept);
  }).join();
  EXPECT_EQ(allocated(), before);
}

TEST_F(LentMemory, OfAGpuIsOneForAllCommunicators) {
  auto other = Device::open(driver(), 0).value();
  EXPECT_EQ(&other->lending(), &device_->lending());
  const khorus_memory memory = other->lending().lend(1000).value();
  other.reset();
  release(memory);
  const khorus_memory again = device_->lending().lend(1000).value();
  EXPECT_EQ(again.data, memory.data);
  release(again);
  EXPECT_NE(&Device::open(driver(), 1).value()->lending(), &device_->lending());
}

TEST_F(LentMemory, ThatTheDeviceMayStillUseIsNotLentAgain) {
  const khorus_memory lost = lend(1000);
  pool_->distrust_lent();
  const size_t before = allocated();
  const khorus_memory later = lend(2000);
  release(lost);
  EXPECT_EQ(pool_->kept_bytes(), 0u);
  release(later);
  EXPECT_GT(pool_->kept_bytes(), 0u);
  EXPECT_LT(allocated() - pool_->kept_bytes(), before);
}

TEST_F(LentMemory, IsLentAndGivenBackByAnyThread) {
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < 100; ++i) release(lend(512 * (1 + i % 5)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(pool_->kept_bytes(), kLimits.blocks * 512 * 5);
}

TEST_F(LentMemory, ThatIsGivenBackInUseIsFound) {
  const auto give_back_early = [this] {
    const khorus_memory memory = lend(1000);
    read(memory);
    release(memory);
  };
  EXPECT_DEATH(give_back_early(),
               "a memset on stream .* writes memory that a copy from the device .* uses");
}

TEST_F(LentMemory, ThatIsUsedAfterItWasGivenBackIsFound) {
  const auto use_late = [this] {
    const khorus_memory memory = lend(1000);
    release(memory);
    read(memory);
  };
  EXPECT_DEATH(use_late(), "reads memory that a memset on stream .* uses");
}

TEST_F(LentMemory, ThatIsUsedWhenSomebodyElseHasItIsFound) {
  const auto use_late = [this] {
    const khorus_memory memory = lend(1000);
    release(memory);
    const khorus_memory again = lend(1000);
    const auto other = Device::open(driver(), 0).value();
    const DeviceScope scope(driver(), context_);
    static_cast<void>(other->copy_from_host(again.data, ones_.data(), ones_.size()));
    read(memory);
  };
  EXPECT_DEATH(use_late(), "reads memory that a copy to the device on stream .* uses");
}

}  // namespace
}  // namespace khorus::test
