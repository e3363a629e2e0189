// The free functions of khorus.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  options.config.store.clear();
  EXPECT_THAT(Engine::create(options).status().message(), testing::HasSubstr("KHORUS_STORE"));
}

}  // namespace
}  // namespace khorus::test
