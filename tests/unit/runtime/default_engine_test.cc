// The free functions of khorus.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <string>
#include <thread>
#include <vector>

#include "khorus/khorus.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

TEST(DefaultEngine, LivesFromInitToShutdown) {
  EXPECT_FALSE(is_initialized());
  EXPECT_THROW(rank(), Error);
  shutdown();  // nothing to do
  for (int round = 0; round < 3; ++round) {
    EngineOptions options;
    options.config.log_level = LogLevel::kFatal;
    init(options);
    init(options);  // does nothing
    EXPECT_TRUE(is_initialized());
    EXPECT_EQ(rank(), 0);
    EXPECT_EQ(size(), 1);
    EXPECT_EQ(local_size(), 1);
    EXPECT_EQ(cross_size(), 1);
    EXPECT_EQ(engine().backend_name(), "local");
    std::vector<double> values(10, 2.5);
    allreduce("x", values.data(), values.size());
    EXPECT_EQ(values[9], 2.5);
    broadcast("y", values.data(), values.size(), 0);
    EXPECT_THROW(broadcast("y", values.data(), values.size(), 1), Error);
    barrier();
    EXPECT_EQ(allgather("z", values.data(), 3), std::vector<double>(3, 2.5));
    EXPECT_EQ(reducescatter("z", values.data(), 4, ReduceOp::kSum), std::vector<double>(4, 2.5));
    const ProcessSetId alone = add_process_set({0});
    EXPECT_EQ(alltoall("z", values.data(), 2, {2}, alone), std::vector<double>(2, 2.5));
    allreduce("x", values.data(), 2, ReduceOp::kMax, alone);
    EXPECT_THROW(send(values.data(), 2, 0), Error);
    EXPECT_THROW(recv(values.data(), 2, 1), Error);
    EXPECT_EQ(join(), 0);
    remove_process_set(alone);
    EXPECT_THROW(barrier(alone), Error);
    shutdown();
    EXPECT_FALSE(is_initialized());
  }
}

TEST(DefaultEngine, RefusesAPlaceThatDoesNotExist) {
  EngineOptions options;
  options.place = {3, 2, 0, 1, 0, 1};
  try {
    init(options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(error.what(), testing::HasSubstr("rank 3 of 2"));
  }
  EXPECT_FALSE(is_initialized());
}

TEST(DefaultEngine, TcpWithoutAKeyIsNotServed) {
  EngineOptions options;
  options.place = {0, 2, 0, 2, 0, 1};
  options.config.store = "127.0.0.1:1";
  options.config.job_id = "j";
  const auto engine = Engine::create(options);
  ASSERT_FALSE(engine.ok());
  EXPECT_EQ(engine.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(engine.status().message(), testing::HasSubstr("KHORUS_KEY_FILE"));
}

TEST(DefaultEngine, RanksOfSeveralHostsNeedAStore) {
  EngineOptions options;
  options.place = {0, 2, 0, 1, 0, 2};
  const Status status = Engine::create(options).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), testing::HasSubstr("KHORUS_STORE"));
}

// Two ranks of one host with nothing but their places and a name for their job.
TEST(DefaultEngine, RanksOfOneHostMeetWithoutAStore) {
  std::array<Status, 2> results;
  const auto run = [&](int rank) {
    EngineOptions options;
    options.place = {rank, 2, rank, 2, 0, 1};
    options.config.job_id = "on-one-host-" + std::to_string(getpid());
    options.session = make_job_session();
    for (int round = 0; round < 2 && results[static_cast<size_t>(rank)].ok(); ++round) {
      const auto engine = Engine::create(options);
      results[static_cast<size_t>(rank)] =
          engine.ok() ? (*engine)->barrier_async()->wait() : engine.status();
    }
  };
  { const std::jthread first(run, 0), second(run, 1); }
  for (const Status& status : results) EXPECT_TRUE(status.ok()) << status.to_string();
}

// A key on one rank only would make it two jobs.
TEST(DefaultEngine, AKeyBelongsToAllRanksOrToNone) {
  std::array<int, 2> pipe_ends{};
  ASSERT_EQ(pipe(pipe_ends.data()), 0);
  ASSERT_EQ(write(pipe_ends[1], std::string(32, 'k').data(), 32), 32);
  std::array<Status, 2> results;
  const auto run = [&](int rank) {
    EngineOptions options;
    options.place = {rank, 2, rank, 2, 0, 1};
    options.config.job_id = "half-a-key-" + std::to_string(getpid());
    options.config.start_timeout_s = 2;
    if (rank == 0) options.config.key_fd = pipe_ends[0];
    results[static_cast<size_t>(rank)] = Engine::create(options).status();
  };
  { const std::jthread first(run, 0), second(run, 1); }
  close(pipe_ends[1]);
  EXPECT_FALSE(results[0].ok());
  EXPECT_EQ(results[1].code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(results[1].message(), testing::HasSubstr("rank 0 has a job key and this rank has"));
}

}  // namespace
}  // namespace khorus::test
