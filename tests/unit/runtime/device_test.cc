// The parts that carry device tensors, without a device: which backend is chosen, and who ends a
// job when. The whole is tested on a double of the driver (tests/gpu).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/runtime/device_choice.h"
#include "core/runtime/device_completion.h"
#include "core/runtime/device_lane.h"
#include "core/runtime/device_runner.h"
#include "core/runtime/process_group.h"

namespace khorus::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Clock = std::chrono::steady_clock;

Clock::time_point soon() { return Clock::now() + std::chrono::seconds(30); }

// ---- DeviceChoice ----

constexpr Device kFirst{DeviceKind::kCuda, 0};
constexpr Device kSecond{DeviceKind::kCuda, 1};

int probes = 0;

khorus_backend backend_of(DeviceKind kind) {
  khorus_backend backend{};
  backend.struct_size = sizeof backend;
  backend.name = kind == DeviceKind::kCpu ? "cpu" : "gpu";
  backend.probe = [](khorus_error*) {
    ++probes;
    return 0;
  };
  backend.supports = [](uint8_t, uint8_t, uint8_t, uint8_t device) {
    return device == static_cast<uint8_t>(DeviceKind::kCuda) ? 1 : 0;
  };
  if (kind == DeviceKind::kCpu) {
    backend.supports = [](uint8_t, uint8_t, uint8_t, uint8_t device) {
      return device == static_cast<uint8_t>(DeviceKind::kCpu) ? 1 : 0;
    };
    return backend;
  }
  backend.devices = [] { return 2; };
  backend.order = [](khorus_comm*, uint64_t, void*, khorus_error*) { return 0; };
  backend.finish = [](khorus_comm*, uint64_t, khorus_error*) { return 0; };
  return backend;
}

BackendSearch search_of(std::vector<const khorus_backend*> backends) {
  BackendSearch search;
  search.directories = {"lib/khorus"};
  for (const khorus_backend* backend : backends) {
    search.backends.push_back({backend->name, "linked in", backend, Status()});
  }
  return search;
}

TEST(DeviceChoice, TakesTheBackendThatCarriesThemAndOneDevice) {
  const khorus_backend cpu = backend_of(DeviceKind::kCpu);
  const khorus_backend gpu = backend_of(DeviceKind::kCuda);
  DeviceChoice choice;
  probes = 0;
  choice.set(search_of({&cpu, &gpu}));
  EXPECT_EQ(probes, 0);  // nobody has needed it
  EXPECT_TRUE(choice.admit(kSecond).ok());
  EXPECT_TRUE(choice.admit(kSecond).ok());
  EXPECT_EQ(probes, 1);
  EXPECT_EQ(choice.backend(), &gpu);
  EXPECT_EQ(*choice.claim(0), kSecond);
  EXPECT_THAT(choice.admit(kFirst).message(),
              HasSubstr("this rank's tensors were on cuda:1 so far, and a rank uses one device"));
}

// Of those that the driver shows: a launcher may show each rank its own only.
TEST(DeviceChoice, TakesThatOfTheLocalRankWhereThereWasNoTensor) {
  khorus_backend gpu = backend_of(DeviceKind::kCuda);
  DeviceChoice choice;
  choice.set(search_of({&gpu}));
  EXPECT_EQ(*choice.claim(1), kSecond);
  EXPECT_EQ(*choice.claim(0), kSecond);  // for good
  EXPECT_TRUE(choice.admit(kSecond).ok());
  EXPECT_THAT(choice.admit(kFirst).message(),
              HasSubstr("this rank uses cuda:1, that of its local rank, since other ranks"));
  gpu.devices = [] { return 1; };
  DeviceChoice alone;
  alone.set(search_of({&gpu}));
  EXPECT_EQ(*alone.claim(3), kFirst);
}

TEST(DeviceChoice, SaysThatThereIsNone) {
  const khorus_backend cpu = backend_of(DeviceKind::kCpu);
  DeviceChoice choice;
  choice.set(search_of({&cpu}));
  EXPECT_EQ(choice.backend(), nullptr);
  EXPECT_THAT(choice.claim(0).status().message(), HasSubstr("no backend here carries it"));
  EXPECT_THAT(choice.admit(kFirst).message(),
              HasSubstr("no backend here carries it: libkhorus_backend_nccl.so is missing in "
                        "lib/khorus; install"));
}

TEST(DeviceChoice, SaysWhatTheBackendLacks) {
  khorus_backend gpu = backend_of(DeviceKind::kCuda);
  gpu.probe = [](khorus_error* error) {
    std::strcpy(error->message, "there is no driver");
    return static_cast<int32_t>(StatusCode::kUnavailable);
  };
  DeviceChoice choice;
  choice.set(search_of({&gpu}));
  EXPECT_EQ(choice.admit(kFirst).message(), "the backend gpu: there is no driver");
  EXPECT_EQ(choice.admit(kFirst).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(choice.claim(0).status(), choice.admit(kFirst));
}

// ---- what a GPU cannot do ----

TEST(DeviceRunner, ObjectsToWhatABackendOfADeviceCannotScale) {
  wire::Request request;
  EXPECT_EQ(objection_on_device(request, 3), std::nullopt);
  request.op = ReduceOp::kAverage;
  EXPECT_EQ(objection_on_device(request, 3), std::nullopt);
  request.dtype = DataType::kInt32;
  EXPECT_EQ(objection_on_device(request, 2), std::nullopt);
  request.postscale = 0;
  EXPECT_THAT(objection_on_device(request, 2).value_or(""), HasSubstr("nothing is scaled by 0"));
  request.dtype = DataType::kFloat32;
  request.prescale = request.postscale = 1e-200;  // one factor for a sum of floats
  EXPECT_THAT(objection_on_device(request, 2).value_or(""), HasSubstr("nothing is scaled by 0"));
  request.kind = OpKind::kBroadcast;
  EXPECT_EQ(objection_on_device(request, 2), std::nullopt);
}

// ---- jobs ----

// A job of one work, with its name.
Job job_of(const std::string& name, const std::shared_ptr<Lane>& lane, uint64_t sequence = 1) {
  Job job;
  job.sequence = sequence;
  job.response.tensors.emplace_back().request.device = DeviceKind::kCuda;
  WorkState::Operation operation;
  operation.name = name;
  job.works.push_back(std::make_shared<WorkState>(std::move(operation), lane));
  return job;
}

// A device that ends an operation when it is told to, and a list of what has happened.
class Completion : public testing::Test {
 protected:
  void TearDown() override { EXPECT_TRUE(completion_.stop(soon())); }

  void push(const std::string& name, uint64_t sequence) {
    DeviceCompletion::Flight flight;
    flight.job = job_of(name, lane_);
    flight.launched.sequence = sequence;
    works_.push_back(flight.job.works.front());
    completion_.push(std::move(flight));
  }
  void let_end(uint64_t sequence, const Status& how = Status()) {
    const std::lock_guard lock(mutex_);
    done_ = sequence;
    how_ = how;
    changed_.notify_all();
  }
  std::vector<std::string> log() {
    const std::lock_guard lock(mutex_);
    return log_;
  }
  void wait_for_log(size_t size) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_until(lock, soon(), [&] { return log_.size() >= size; }));
  }

  std::shared_ptr<Lane> lane_ = std::make_shared<Lane>();
  std::vector<WorkStatePtr> works_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t done_ = 0;
  Status how_;
  std::vector<std::string> log_;
  DeviceCompletion completion_{DeviceCompletion::Hooks{
      [this](uint64_t sequence) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return done_ >= sequence; });
        log_.push_back("finish " + std::to_string(sequence));
        return how_;
      },
      [this](Job& job, const Status& status) {
        if (status.ok()) end_job(job, status);
        const std::lock_guard lock(mutex_);
        log_.push_back(job.works.front()->name() + (status.ok() ? " is done" : " has failed"));
        changed_.notify_all();
      },
      [this](const Job& job, const Status& status) {
        end_job(job, status);
        const std::lock_guard lock(mutex_);
        log_.push_back(job.works.front()->name() + ": " + status.message());
        changed_.notify_all();
      }}};
};

TEST_F(Completion, EndsOneAfterTheOther) {
  push("a", 1);
  push("b", 2);
  EXPECT_FALSE(works_[0]->poll());
  let_end(1);
  EXPECT_TRUE(works_[0]->wait().ok());
  EXPECT_FALSE(works_[1]->poll());
  let_end(2);
  EXPECT_TRUE(works_[1]->wait().ok());
  EXPECT_TRUE(completion_.wait_idle(soon()));
  EXPECT_THAT(log(), ElementsAre("finish 1", "a is done", "finish 2", "b is done"));
}

TEST_F(Completion, HoldsWhatHasFailedUntilItIsKnownWhy) {
  push("a", 1);
  push("b", 2);
  let_end(1, Status(StatusCode::kAborted, "something"));
  wait_for_log(2);
  EXPECT_FALSE(works_[0]->poll());
  completion_.fail(Status(StatusCode::kPeerLost, "rank 7"));
  EXPECT_EQ(works_[0]->wait().message(), "rank 7");
  EXPECT_EQ(works_[1]->wait().code(), StatusCode::kPeerLost);
  EXPECT_TRUE(completion_.wait_idle(soon()));
  // The device is asked once: the first failure was the end of all.
  EXPECT_THAT(log(), ElementsAre("finish 1", "a has failed", "a: rank 7", "b: rank 7"));
}

TEST_F(Completion, AFailureOfTheEngineWaitsForTheDevice) {
  push("a", 1);
  completion_.fail(Status(StatusCode::kShutdown, "over"));
  EXPECT_FALSE(works_[0]->poll());
  let_end(1, Status(StatusCode::kAborted, "aborted"));
  EXPECT_EQ(works_[0]->wait().message(), "over");
}

// ---- DeviceLane ----

class Launching : public testing::Test {
 protected:
  void SetUp() override {
    lane_.start([this](ProcessGroup& group, Job& job) {
      std::unique_lock lock(mutex_);
      launched_.push_back(job.works.front()->name() + " of " + std::to_string(group.id()));
      changed_.notify_all();
      changed_.wait(lock, [this] { return go_; });
      if (!ok_) return false;
      end_job(job, Status());
      return true;
    });
  }
  void TearDown() override { EXPECT_TRUE(lane_.stop(soon())); }
  static std::shared_ptr<ProcessGroup> group(ProcessSetId id) {
    return std::make_shared<ProcessGroup>(id, std::vector<int>{0}, nullptr);
  }
  WorkStatePtr push(const std::shared_ptr<ProcessGroup>& to, const std::string& name) {
    Job job = job_of(name, to->lane());
    WorkStatePtr work = job.works.front();
    lane_.push(to, std::move(job));
    return work;
  }
  void go(bool ok) {
    const std::lock_guard lock(mutex_);
    go_ = true;
    ok_ = ok;
    changed_.notify_all();
  }
  void wait_for_launch() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_until(lock, soon(), [&] { return !launched_.empty(); }));
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> launched_;
  bool go_ = false;
  bool ok_ = true;
  DeviceLane lane_;
};

TEST_F(Launching, IsInTheOrderOfTheDecisionsOverAllSets) {
  const auto one = group(1);
  const auto two = group(2);
  std::vector<WorkStatePtr> works = {push(two, "a"), push(one, "b"), push(two, "c")};
  EXPECT_FALSE(lane_.wait_launched(*two, Clock::now()));
  go(true);
  for (const WorkStatePtr& work : works) EXPECT_TRUE(work->wait().ok());
  EXPECT_TRUE(lane_.wait_launched(*one, soon()) && lane_.wait_launched(*two, soon()));
  EXPECT_THAT(launched_, ElementsAre("a of 2", "b of 1", "c of 2"));
}

TEST_F(Launching, StopsAfterAFailureAndHoldsAllUntilItIsKnownWhy) {
  const auto one = group(1);
  const WorkStatePtr a = push(one, "a");
  const WorkStatePtr b = push(one, "b");
  go(false);
  wait_for_launch();
  EXPECT_FALSE(b->poll());
  lane_.fail(Status(StatusCode::kPeerLost, "rank 7"));
  EXPECT_EQ(a->wait().message(), "rank 7");
  EXPECT_EQ(b->wait().message(), "rank 7");
  EXPECT_EQ(push(one, "c")->wait().message(), "rank 7");
  EXPECT_THAT(launched_, ElementsAre("a of 1"));
}

TEST_F(Launching, WhatIsBeingLaunchedEndsWhenItReturns) {
  const auto one = group(1);
  const WorkStatePtr a = push(one, "a");
  const WorkStatePtr b = push(one, "b");
  wait_for_launch();
  lane_.fail(Status(StatusCode::kShutdown, "over"));
  EXPECT_EQ(b->wait().message(), "over");
  EXPECT_FALSE(a->poll());
  go(false);
  EXPECT_EQ(a->wait().message(), "over");
}

}  // namespace
}  // namespace khorus::runtime
