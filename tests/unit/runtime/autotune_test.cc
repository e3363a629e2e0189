// Autotune: steps are found by repetition, and the tuner of a running engine settles.
#include "core/runtime/autotune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "tests/unit/runtime/folder.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

using runtime::Autotune;
using testing::HasSubstr;
using testing::StartsWith;

// One fused operation of these tensors, each of 1000 bytes.
protocol::Execution execution_of(const std::vector<std::string>& names) {
  protocol::Execution execution;
  for (const std::string& name : names) {
    wire::ResponseTensor tensor;
    tensor.request.name = name;
    tensor.request.shape = {250};
    execution.response.tensors.push_back(tensor);
  }
  return execution;
}

TEST(Autotune, ASampleIsSomeSteps) {
  std::vector<std::string> lines;
  base::Logger::Options logging;
  logging.sink = [&](std::string_view line) { lines.emplace_back(line); };
  const base::Logger logger(logging);
  Autotune::Options options;
  options.tuner.warmup_samples = 0;
  options.tuner.max_samples = 2;
  options.steps_per_sample = 2;
  options.logger = &logger;
  Autotune autotune(options);

  // a b | a b | a b | a: the first step is not counted, then two steps of 2000 bytes in 2 ms.
  const std::vector<protocol::Execution> a = {execution_of({"a"})};
  const std::vector<protocol::Execution> b = {execution_of({"b"})};
  protocol::TimeUs now = 1'000'000;
  for (int step = 0; step < 3; ++step) {
    EXPECT_FALSE(autotune.agreed(a, now).has_value());
    EXPECT_FALSE(autotune.agreed(b, now + 500).has_value());
    now += 1000;
  }
  const auto change = autotune.agreed(a, now);
  ASSERT_TRUE(change.has_value());
  EXPECT_EQ(change->threshold_bytes, 4 << 20);
  EXPECT_EQ(change->window_us, 1000);

  // The step of the change is not counted; then one step is slower: back to the start.
  std::optional<protocol::FusionSettings> back;
  for (int step = 0; step < 4 && !back.has_value(); ++step) {
    autotune.agreed(b, now + 500);
    now += 3000;
    back = autotune.agreed(a, now);
  }
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(*back, protocol::FusionSettings());
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_THAT(lines[0], HasSubstr("autotune: fusion threshold and flush window are 64 MiB and 1 ms"
                                  ": 2.0 MB/s, the start, after 2 samples; that is the limit"));
  EXPECT_FALSE(autotune.agreed(a, now + 1).has_value());
}

TEST(Autotune, StartsFromSettingsThatCanBeMultiplied) {
  Config config;
  config.fusion_threshold_bytes = 0;
  config.cycle_time_ms = 0;
  EXPECT_EQ(Autotune::start_of(config), protocol::FusionSettings());
  EXPECT_EQ(Autotune::largest_threshold(config), 0);
  config.autotune = true;
  EXPECT_EQ(Autotune::largest_threshold(config), 256 << 20);
  config.fusion_threshold_bytes = std::numeric_limits<int64_t>::max();
  EXPECT_GT(Autotune::largest_threshold(config), 0);
}

TEST(Autotune, OfAnEngineSettles) {
  const Folder folder;
  constexpr int kSamples = 6;
  Ranks ranks(2, {}, [&](EngineOptions* options) {
    options->config.autotune = true;
    options->config.autotune_log = folder / "log";
    options->config.autotune_warmup_samples = 1;
    options->config.autotune_steps_per_sample = 2;
    options->config.autotune_max_samples = kSamples;
    options->config.log_level = LogLevel::kError;  // the verdict is in the file, too
  });
  ranks.run([](Engine& engine) {
    for (int step = 0; step < 100; ++step) {
      std::vector<std::vector<float>> tensors(5, std::vector<float>(1000, 1.0F));
      std::vector<WorkPtr> works;
      for (size_t t = 0; t < tensors.size(); ++t) {
        works.push_back(engine.allreduce_async(std::to_string(t), view_of(tensors[t]),
                                               view_of(tensors[t]), with(ReduceOp::kSum)));
      }
      ASSERT_TRUE(wait_all(works).ok());
      for (const std::vector<float>& tensor : tensors) EXPECT_EQ(tensor[999], 2.0F);
    }
  });
  std::istringstream log(contents(folder / "log"));
  std::vector<std::string> lines;
  for (std::string line; std::getline(log, line);) lines.push_back(line);
  ASSERT_GE(lines.size(), 4U);
  EXPECT_LE(lines.size(), 2U + 1U + kSamples);
  EXPECT_EQ(lines[0], "fusion_threshold_bytes,flush_window_ms,bytes_per_second,result");
  EXPECT_THAT(lines[1], HasSubstr("warm-up"));
  EXPECT_THAT(lines[2], StartsWith("67108864,1,"));
  EXPECT_THAT(lines.back(), StartsWith("# fusion threshold and flush window are "));
}

}  // namespace
}  // namespace khorus::test
