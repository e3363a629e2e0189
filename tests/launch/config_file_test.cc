// --config-file: what keys stand for, what beats what, and which errors name file and line.
#include "core/launch/config_file.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/launch/options.h"

namespace khorus::launch {
namespace {

using Words = std::vector<std::string>;

class ConfigFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string folder = testing::TempDir() + "config_file_XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    if (read_yaml(write("empty.yaml", "")).status().code() == StatusCode::kUnavailable) {
      GTEST_SKIP() << "built without yaml-cpp";
    }
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    const std::string path = folder_ / name;
    std::ofstream(path) << text;
    return path;
  }

  Result<LaunchOptions> parse(const std::string& text, Words before = {}, Words after = {}) {
    before.insert(before.end(), {"--config-file", write("job.yaml", text)});
    before.insert(before.end(), after.begin(), after.end());
    before.push_back("prog");
    return parse_options(before);
  }

  LaunchOptions parsed(const std::string& text, Words before = {}, Words after = {}) {
    const Result<LaunchOptions> options = parse(text, std::move(before), std::move(after));
    EXPECT_TRUE(options.ok()) << options.status().to_string();
    return options.ok() ? *options : LaunchOptions();
  }

  // Without the folder.
  std::string error_of(const std::string& text) {
    const Result<LaunchOptions> options = parse(text, {"-np", "1"});
    if (options.ok()) return "no error";
    std::string message = options.status().message();
    const std::string folder = folder_.string() + "/";
    for (size_t at; (at = message.find(folder)) != std::string::npos;) {
      message.erase(at, folder.size());
    }
    return message;
  }

  std::filesystem::path folder_;
};

TEST_F(ConfigFile, SectionsOfHorovod) {
  const LaunchOptions options = parsed(
      "controller: mpi\n"
      "params:\n  fusion_threshold_mb: 32\n  cycle_time_ms: 10\n  cache_capacity: 2048\n"
      "  hierarchical_allreduce: false\n"
      "autotune:\n  enabled: true\n  log_file: 'tuner log.csv'\n  warmup_samples: 5\n"
      "timeline:\n  filename: t.json\n  mark_cycles: true\n"
      "stall_check:\n  enabled: false\n  warning_time_seconds: 120\n  shutdown_time_seconds: 240\n"
      "library_options:\n  gloo_timeout_seconds: 60\n  mpi_threads_disable: false\n"
      "logging:\n  level: INFO\n  with_timestamp: no\n",
      {"-np", "2"});
  const std::map<std::string, std::string> expected = {
      {"KHORUS_FUSION_THRESHOLD", "32MiB"},
      {"KHORUS_CYCLE_TIME", "10"},
      {"KHORUS_CACHE_CAPACITY", "2048"},
      {"KHORUS_AUTOTUNE", "1"},
      {"KHORUS_AUTOTUNE_LOG", "tuner log.csv"},
      {"KHORUS_AUTOTUNE_WARMUP_SAMPLES", "5"},
      {"KHORUS_TIMELINE", "t.json"},
      {"KHORUS_TIMELINE_MARK_CYCLES", "1"},
      {"KHORUS_STALL_CHECK_DISABLE", "1"},
      {"KHORUS_STALL_CHECK_TIME_SECONDS", "120"},
      {"KHORUS_STALL_SHUTDOWN_TIME_SECONDS", "240"},
      {"KHORUS_GLOO_TIMEOUT_SECONDS", "60"},
      {"KHORUS_LOG_LEVEL", "INFO"},
      {"KHORUS_LOG_HIDE_TIME", "1"}};
  EXPECT_EQ(options.environment, expected);
  EXPECT_TRUE(options.mpi);
}

TEST_F(ConfigFile, KeysOutsideSectionsAreOptions) {
  const LaunchOptions options = parsed(
      "num_proc: 3\nverbose: yes\nno-prefix: false\nhosts: ['localhost:2', 'localhost:2']\n"
      "metrics-filename: m.prom\nforward: [A=1, B]\noutput-filename:\n");
  EXPECT_EQ(options.processes, 3);
  EXPECT_TRUE(options.verbose);
  EXPECT_FALSE(options.prefix.empty());
  ASSERT_EQ(options.hosts.size(), 1u);
  EXPECT_EQ(options.hosts[0].slots, 4);
  EXPECT_EQ(options.environment.at("KHORUS_METRICS_FILE"), "m.prom");
  EXPECT_EQ(options.environment.at("A"), "1");
  EXPECT_EQ(options.forwarded, (Words{"A", "B"}));
  EXPECT_EQ(options.output_directory, "") << "a key without a value asks for nothing";
}

TEST_F(ConfigFile, TheCommandLineBeatsTheFileWhereverItStands) {
  const std::string text =
      "num-proc: 2\nhosts: 'localhost:7'\ncontroller: mpi\nprefix: x\nforward: A=file\n"
      "params:\n  cycle-time-ms: 9\n  cache-capacity: 5\nautotune:\n  enabled: true\n"
      "stall-check:\n  enabled: false\n  warning-time-seconds: 7\n";
  const Words flags = {"-np",
                       "4",
                       "-H",
                       "localhost:4",
                       "--gloo",
                       "--no-prefix",
                       "-x",
                       "A=line",
                       "--cycle-time-ms",
                       "1",
                       "--disable-cache",
                       "--no-autotune",
                       "--stall-check"};
  for (const bool before : {true, false}) {
    const LaunchOptions options = parsed(text, before ? flags : Words(), before ? Words() : flags);
    EXPECT_EQ(options.processes, 4);
    ASSERT_EQ(options.hosts.size(), 1u);
    EXPECT_EQ(options.hosts[0].slots, 4);
    EXPECT_FALSE(options.mpi);
    EXPECT_EQ(options.prefix, "");
    EXPECT_EQ(options.environment.at("A"), "line");
    EXPECT_EQ(options.environment.at("KHORUS_CYCLE_TIME"), "1");
    EXPECT_EQ(options.environment.at("KHORUS_CACHE_CAPACITY"), "0");
    EXPECT_EQ(options.environment.at("KHORUS_AUTOTUNE"), "0");
    EXPECT_EQ(options.environment.at("KHORUS_STALL_CHECK_DISABLE"), "0");
    EXPECT_EQ(options.environment.at("KHORUS_STALL_CHECK_TIME_SECONDS"), "7");
  }
}

TEST_F(ConfigFile, OfTwoFilesTheLaterCountsMore) {
  const std::string first = write("first.yaml", "params:\n  cycle-time-ms: 1\nverbose: true\n");
  const LaunchOptions options =
      parsed("params:\n  cycle-time-ms: 2\n", {"-np", "1", "--config-file", first});
  EXPECT_EQ(options.environment.at("KHORUS_CYCLE_TIME"), "2");
  EXPECT_TRUE(options.verbose);
}

TEST_F(ConfigFile, ErrorsNameFileAndLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"params:\n  fusion-treshold-mb: 1\n",
       "job.yaml:2: unknown key \"fusion-treshold-mb\": params has fusion-threshold-mb, "},
      {"\nparam:\n  cycle-time-ms: 1\n",
       "job.yaml:3: unknown section \"param\": there are params,"},
      {"nonsense: 1\n", "job.yaml:1: unknown key \"nonsense\""},
      {"params: 3\n", "job.yaml:1: \"params\" is a section"},
      {"params:\n  cycle-time-ms: soon\n", "job.yaml:2: --cycle-time-ms=\"soon\""},
      {"params:\n  cycle-time-ms: {a: 1}\n", "job.yaml:2: \"cycle-time-ms\": expected a value"},
      {"params:\n  cycle-time-ms: 1\n  cycle_time_ms: 1\n", "job.yaml:3: \"cycle_time_ms\" stands"},
      {"stall-check:\n  enabled: maybe\n", "job.yaml:2: --no-stall-check \"maybe\""},
      {"verbose: 7\n", "job.yaml:1: --verbose \"7\": expected true or false"},
      {"params:\n  hierarchical-allreduce: true\n", "job.yaml:2: --hierarchical-allreduce is not"},
      {"controller: carrier-pigeon\n", "job.yaml:1: controller \"carrier-pigeon\""},
      {"help: true\n", "job.yaml:1: \"help\" belongs on the command line"},
      {"config-file: other\n", "job.yaml:1: \"config-file\" belongs on the command line"},
      {"- a\n- b\n", "job.yaml:1: expected keys"},
      {"params:\n  a: [\n", "job.yaml:"},
      {"a: 'open\n", "job.yaml:"}};
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(error_of(text).substr(0, expected.size()), expected);
  }
  const Words missing = {"-np", "1", "--config-file", (folder_ / "none.yaml").string(), "p"};
  EXPECT_NE(parse_options(missing).status().message().find("none.yaml\" cannot be read"),
            std::string::npos);
}

}  // namespace
}  // namespace khorus::launch
