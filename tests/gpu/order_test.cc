// The order of streams, on the double: what it lets pass, and that it finds what is wrong: in
// programs written for this, and in the use of the nccl backend.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "backends/nccl/device.h"
#include "backends/nccl/driver.h"
#include "backends/nccl/kernels/module.h"
#include "backends/nccl/library.h"
#include "tests/conformance/plugin.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {
namespace {

using backends::nccl::Device;
using backends::nccl::DeviceScope;
using backends::nccl::Driver;
using backends::nccl::Library;
using backends::nccl::Module;
using backends::nccl::Move;
using backends::nccl::Progress;

const Driver& driver() { return **Driver::load(); }

// Two streams of one GPU with some memory.
class Streams : public ::testing::Test {
 protected:
  static constexpr size_t kBytes = 4096;

  void SetUp() override {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    ASSERT_TRUE(Driver::load().ok()) << Driver::load().status().to_string();
    one_ = Device::open(driver(), 0).value();
    other_ = Device::open(driver(), 0).value();
    scope_ = std::make_unique<DeviceScope>(driver(), one_->context());
    ASSERT_EQ(driver().mem_alloc(&a_, kBytes), CUDA_SUCCESS);
    ASSERT_EQ(driver().mem_alloc(&b_, kBytes), CUDA_SUCCESS);
  }
  static void wait_for(Device& device) {
    const auto progress = std::make_shared<Progress>();
    const CUevent now = *device.record(device.stream());
    ASSERT_TRUE(device.tell(now, progress, 1).ok());
    ASSERT_TRUE(progress->wait(1, std::chrono::seconds(60)));
    ASSERT_EQ(driver().event_query(now), CUDA_SUCCESS);
  }
  std::byte* at(CUdeviceptr address) const { return reinterpret_cast<std::byte*>(address); }
  // Makes the second stream wait for what is in the first.
  void order() {
    ASSERT_EQ(driver().stream_wait_event(other_->stream(), *one_->record(one_->stream()), 0),
              CUDA_SUCCESS);
  }

  std::unique_ptr<Device> one_;
  std::unique_ptr<Device> other_;
  std::unique_ptr<DeviceScope> scope_;
  CUdeviceptr a_ = 0;
  CUdeviceptr b_ = 0;
  std::vector<std::byte> host_ = std::vector<std::byte>(kBytes, std::byte{7});
};

TEST_F(Streams, WorkThatIsOrderedByAnEventPasses) {
  ASSERT_TRUE(one_->copy_from_host(at(a_), host_.data(), kBytes).ok());
  order();
  ASSERT_TRUE(other_->copy(at(b_), at(a_), kBytes).ok());
  std::vector<std::byte> back(kBytes);
  ASSERT_TRUE(other_->copy_to_host(back.data(), at(b_), kBytes).ok());
  wait_for(*other_);
  EXPECT_EQ(back, host_);
  driver().mem_free(a_);
  driver().mem_free(b_);
}

TEST_F(Streams, WhatTheHostHasSeenCompleteIsOrdered) {
  ASSERT_TRUE(one_->copy_from_host(at(a_), host_.data(), kBytes).ok());
  wait_for(*one_);
  EXPECT_TRUE(other_->copy(at(b_), at(a_), kBytes).ok());
  wait_for(*other_);
}

TEST_F(Streams, AMissingEventWaitBeforeAReadIsFound) {
  const auto forget = [this] {
    static_cast<void>(one_->copy_from_host(at(a_), host_.data(), kBytes));
    static_cast<void>(other_->copy(at(b_), at(a_), kBytes));
  };
  EXPECT_DEATH(forget(),
               "a copy on the device on stream .* reads memory that a copy to the device "
               "on stream .* uses, .*an event wait is missing");
}

TEST_F(Streams, AMissingEventWaitBeforeAWriteIsFound) {
  const auto forget = [this] {
    static_cast<void>(one_->copy_to_host(host_.data(), at(a_) + 64, 64));
    static_cast<void>(other_->copy(at(a_), at(b_), 65));
  };
  EXPECT_DEATH(forget(), "writes memory that a copy from the device .*an event wait is missing");
}

TEST_F(Streams, WorkOnOtherBytesNeedsNoOrder) {
  ASSERT_TRUE(one_->copy_to_host(host_.data(), at(a_) + 64, 64).ok());
  EXPECT_TRUE(other_->copy(at(a_), at(b_), 64).ok());
  EXPECT_TRUE(other_->copy(at(a_) + 128, at(b_), 64).ok());
  wait_for(*one_);
  wait_for(*other_);
}

TEST_F(Streams, AnEventThatIsRecordedTooEarlyIsFound) {
  const auto too_early = [this] {
    order();
    static_cast<void>(one_->copy_from_host(at(a_), host_.data(), kBytes));
    static_cast<void>(other_->copy(at(b_), at(a_), kBytes));
  };
  EXPECT_DEATH(too_early(), "an event wait is missing");
}

TEST_F(Streams, MemoryThatIsFreedInUseIsFound) {
  const auto free_early = [this] {
    static_cast<void>(one_->copy_from_host(at(a_), host_.data(), kBytes));
    driver().mem_free(a_);
  };
  EXPECT_DEATH(free_early(), "memory is freed that a copy to the device");
}

TEST_F(Streams, MemoryThatIsUsedAfterItWasFreedIsFound) {
  const auto use_late = [this] {
    driver().mem_free(a_);
    CUdeviceptr other = 0;
    driver().mem_alloc(&other, kBytes);
    static_cast<void>(one_->copy(at(b_), at(a_) + 64, 64));
  };
  EXPECT_DEATH(use_late(), "a copy on the device uses memory of the device that was freed");
}

TEST_F(Streams, TheHostCannotTouchMemoryOfTheDevice) {
  EXPECT_DEATH(std::memset(at(a_), 0, 1), "");
}

TEST_F(Streams, NcclGetsMemoryOfTheDeviceOnly) {
  const auto give_host_memory = [this] {
    const Library& nccl = **Library::load();
    ncclUniqueId id;
    ncclComm_t comm = nullptr;
    nccl.get_unique_id(&id);
    nccl.comm_init_rank_config(&comm, 1, id, 0, nullptr);
    nccl.all_reduce(host_.data(), host_.data(), 4, ncclInt8, ncclSum, comm, one_->stream());
  };
  EXPECT_DEATH(give_host_memory(), "not memory of the device");
}

// A non-blocking communicator has nothing in the stream before it was asked.
TEST_F(Streams, WhoDoesNotAskNcclWhetherItIsThroughIsFound) {
  const auto do_not_ask = [this] {
    const Library& nccl = **Library::load();
    ncclUniqueId id;
    ncclComm_t comm = nullptr;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    nccl.get_unique_id(&id);
    nccl.comm_init_rank_config(&comm, 1, id, 0, &config);
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) nccl.comm_get_async_error(comm, &state);
    for (int i = 0; i < 2; ++i) {
      nccl.all_reduce(at(a_), at(a_), 4, ncclInt8, ncclSum, comm, one_->stream());
    }
  };
  EXPECT_DEATH(do_not_ask(), "still in progress");
}

// Launches a kernel that copies `moves`, whose table is in pinned memory.
class Launches : public Streams {
 protected:
  void SetUp() override {
    Streams::SetUp();
    module_ = Module::load(driver(), one_->context()).value();
    ASSERT_EQ(driver().mem_alloc(&table_, kBytes), CUDA_SUCCESS);
    ASSERT_EQ(driver().mem_host_alloc(&pinned_, kBytes, 0), CUDA_SUCCESS);
  }
  void upload(const std::vector<Move>& moves) {
    std::memcpy(pinned_, moves.data(), moves.size() * sizeof(Move));
    ASSERT_TRUE(one_->copy_from_host(at(table_), pinned_, moves.size() * sizeof(Move)).ok());
  }
  void launch(uint32_t count) {
    ASSERT_EQ(module_->copy({table_, count, count, {}}, one_->stream()), CUDA_SUCCESS);
  }
  Move move(CUdeviceptr to, CUdeviceptr from, uint64_t chunk) const {
    return {at(from), at(to), 64, chunk};
  }

  std::unique_ptr<Module> module_;
  CUdeviceptr table_ = 0;
  void* pinned_ = nullptr;
};

TEST_F(Launches, AreOrderedAsCopiesAre) {
  ASSERT_TRUE(one_->copy_from_host(at(a_), host_.data(), kBytes).ok());
  upload({move(b_, a_, 0), move(b_ + 64, a_ + 65, 1)});
  launch(2);
  order();
  std::vector<std::byte> back(128);
  ASSERT_TRUE(other_->copy_to_host(back.data(), at(b_), back.size()).ok());
  wait_for(*other_);
  EXPECT_EQ(back, std::vector<std::byte>(128, std::byte{7}));
}

TEST_F(Launches, ReadsAndWritesOfEveryMoveAreChecked) {
  const auto read_early = [this] {
    static_cast<void>(other_->copy_from_host(at(a_) + 1000, host_.data(), 8));
    upload({move(b_, a_, 0), move(b_ + 64, a_ + 940, 1)});
    launch(2);
  };
  EXPECT_DEATH(read_early(), "khorus_copy on stream .* reads memory .*an event wait is missing");
  const auto write_early = [this] {
    static_cast<void>(other_->copy_to_host(host_.data(), at(b_) + 100, 8));
    upload({move(b_, a_, 0), move(b_ + 64, a_ + 940, 1)});
    launch(2);
  };
  EXPECT_DEATH(write_early(), "khorus_copy on stream .* writes memory .*an event wait is missing");
}

TEST_F(Launches, ATableThatIsWrittenToTooEarlyIsFound) {
  const auto write_early = [this] {
    std::atomic<bool> go{false};
    static_cast<void>(
        one_->call([](void* data) { static_cast<std::atomic<bool>*>(data)->wait(false); }, &go));
    upload({move(b_, a_, 0)});
    launch(1);
    std::memset(pinned_, 1, 8);
    go = true;
    go.notify_all();
    wait_for(*one_);
  };
  EXPECT_DEATH(write_early(), "finds another table than the host had written");
}

TEST_F(Launches, BlocksThatWriteWhatOthersReadAreFound) {
  const auto race = [this] {
    upload({move(b_, a_, 0), move(a_ + 63, b_ + 64, 1)});
    launch(2);
  };
  EXPECT_DEATH(race(), "writes memory that another of its blocks uses");
}

TEST_F(Launches, ATableOfNoPinnedMemoryIsFound) {
  EXPECT_DEATH(launch(1), "a table that was not copied there from pinned memory");
}

// One rank of the backend, used as an engine does.
class Backend : public Streams {
 protected:
  Backend() : table_(1), host_of_rank_(table_, 0) {}
  void SetUp() override {
    Streams::SetUp();
    backend_ = find_backend("nccl");
    ASSERT_NE(backend_, nullptr);
    const int32_t rank = 0;
    const char* const name = "testhost";
    khorus_group group{};
    group.struct_size = sizeof(group);
    group.size = 1;
    group.global_ranks = &rank;
    group.hosts = &name;
    group.id = "order";
    group.network_interface = "";
    group.timeout_ms = 30000;
    group.host = &host_of_rank_.c;
    ASSERT_EQ(backend_->open(&group, &comm_, &error_), 0) << error_.message;
    ASSERT_EQ(backend_->connect(comm_, &error_), 0) << error_.message;
  }
  void TearDown() override {
    if (comm_ != nullptr) backend_->disconnect(comm_);
  }
  khorus_op op() const {
    khorus_op op{};
    op.struct_size = sizeof(op);
    op.dtype = static_cast<uint8_t>(DataType::kUint8);
    op.device = static_cast<uint8_t>(DeviceKind::kCuda);
    op.sequence = 1;
    op.input = at(a_);
    op.output = at(b_);
    op.count = kBytes;
    op.stream = one_->stream();
    return op;
  }

  ExchangeTable table_;
  Host host_of_rank_;
  const khorus_backend* backend_ = nullptr;
  khorus_comm* comm_ = nullptr;
  khorus_error error_{};
};

TEST_F(Backend, OrdersItsWorkBehindTheFrameworks) {
  ASSERT_TRUE(one_->copy_from_host(at(a_), host_.data(), kBytes).ok());
  const khorus_op now = op();
  ASSERT_EQ(backend_->run(comm_, &now, &error_), 0) << error_.message;
  ASSERT_EQ(backend_->order(comm_, 1, one_->stream(), &error_), 0) << error_.message;
  std::vector<std::byte> back(kBytes);
  ASSERT_TRUE(one_->copy_to_host(back.data(), at(b_), kBytes).ok());
  wait_for(*one_);
  EXPECT_EQ(back, host_);
  EXPECT_EQ(backend_->finish(comm_, 1, &error_), 0) << error_.message;
}

TEST_F(Backend, AReadyEventOfAnEarlierMomentIsFound) {
  const auto use_early_event = [this] {
    const CUevent early = *one_->record(one_->stream());
    static_cast<void>(one_->copy_from_host(at(a_), host_.data(), kBytes));
    khorus_op now = op();
    now.ready_event = early;
    backend_->run(comm_, &now, &error_);
  };
  EXPECT_DEATH(use_early_event(), "reads memory that a copy to the device .*event wait is missing");
}

TEST_F(Backend, UseOfTheOutputWithoutOrderIsFound) {
  const auto use_too_early = [this] {
    const khorus_op now = op();
    backend_->run(comm_, &now, &error_);
    std::vector<std::byte> back(kBytes);
    static_cast<void>(one_->copy_to_host(back.data(), at(b_), kBytes));
  };
  EXPECT_DEATH(use_too_early(), "reads memory that a copy on the device .*event wait is missing");
}

// After finish() the host knows, and needs no order().
TEST_F(Backend, FinishIsEnough) {
  const khorus_op now = op();
  ASSERT_EQ(backend_->run(comm_, &now, &error_), 0) << error_.message;
  ASSERT_EQ(backend_->finish(comm_, 1, &error_), 0) << error_.message;
  EXPECT_EQ(backend_->order(comm_, 1, one_->stream(), &error_), 0) << error_.message;
  EXPECT_TRUE(one_->copy_to_host(host_.data(), at(b_), kBytes).ok());
  wait_for(*one_);
}

int64_t nanoseconds_now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of operations that asked for it, and of none before or after.
TEST_F(Backend, TellsWhenAnOperationWasOnTheDevice) {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t last = nanoseconds_now();
  for (uint64_t sequence = 1; sequence <= 20; ++sequence) {
    khorus_op now = op();
    now.sequence = sequence;
    now.timed = sequence % 5 == 0 ? 0 : 1;
    ASSERT_EQ(backend_->run(comm_, &now, &error_), 0) << error_.message;
    ASSERT_EQ(backend_->finish(comm_, sequence, &error_), 0) << error_.message;
    ASSERT_EQ(backend_->times(comm_, sequence, &begin, &end), now.timed);
    ASSERT_EQ(backend_->times(comm_, sequence + 1, &begin, &end), 0);
    if (now.timed == 0) continue;
    // The clock of the double is the host's; a float of milliseconds is coarser.
    EXPECT_GE(begin, last - 1000);
    EXPECT_LE(begin, end);
    EXPECT_LE(end, nanoseconds_now());
    last = end;
  }
}

TEST_F(Backend, ADeviceThatIsNotThereIsNamed) {
  const int32_t rank = 3;
  const char* const name = "north";
  khorus_group group{};
  group.struct_size = sizeof(group);
  group.size = 1;
  group.global_ranks = &rank;
  group.hosts = &name;
  group.id = "x";
  group.network_interface = "";
  group.timeout_ms = 1000;
  group.host = &host_of_rank_.c;
  group.device = 8;
  khorus_comm* none = nullptr;
  EXPECT_EQ(backend_->open(&group, &none, &error_), static_cast<int>(StatusCode::kUnavailable));
  EXPECT_EQ(none, nullptr);
  EXPECT_STREQ(error_.message,
               "rank 3 (north) is to use GPU 8, and the driver shows it 8, numbered from 0; start "
               "at most as many ranks on a host as it has GPUs, and look at CUDA_VISIBLE_DEVICES");
}

}  // namespace
}  // namespace khorus::conformance
