// The table of knobs, and Config made from variables.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "core/base/config_table.h"

namespace khorus {
namespace {

using base::Knob;
using Variables = std::map<std::string, std::string>;

Config parsed(const Variables& variables, std::vector<std::string>* warnings = nullptr) {
  const Result<Config> config = Config::from_map(variables, warnings);
  EXPECT_TRUE(config.ok()) << config.status().to_string();
  return config.ok() ? *config : Config();
}

std::string error_of(const Variables& variables) {
  const Result<Config> config = Config::from_map(variables);
  return config.ok() ? "no error" : config.status().to_string();
}

TEST(KnobTable, DefaultsAreThoseOfConfig) {
  const Config standard;
  for (const Knob& knob : base::knobs()) {
    if (!knob.used() || knob.standard.empty()) continue;
    const auto value = base::parse_knob(knob, knob.name, knob.standard);
    ASSERT_TRUE(value.ok()) << knob.name << ": " << value.status().to_string();
    std::visit(
        [&](auto member) {
          if constexpr (!std::is_same_v<decltype(member), std::monostate>) {
            using Value = std::remove_cvref_t<decltype(standard.*member)>;
            EXPECT_EQ(std::get<Value>(*value), standard.*member) << knob.name;
          }
        },
        knob.member);
  }
}

TEST(KnobTable, EveryMemberAndNameStandsOnce) {
  std::set<std::string_view> names;
  std::set<std::string_view> flags;
  for (const Knob& knob : base::knobs()) {
    EXPECT_TRUE(names.insert(knob.name).second) << knob.name;
    if (!knob.flag.empty()) {
      EXPECT_TRUE(flags.insert(knob.flag).second) << knob.flag;
    }
    EXPECT_TRUE(knob.sentence.ends_with('.')) << knob.name;
    EXPECT_EQ(base::find_knob(knob.name), &knob) << knob.name;
  }
}

// Every variable of API.md's list is known under both names.
TEST(KnobTable, KnowsEveryHorovodVariable) {
  for (const char* name : {"RANK",
                           "SIZE",
                           "LOCAL_RANK",
                           "LOCAL_SIZE",
                           "CROSS_RANK",
                           "CROSS_SIZE",
                           "FUSION_THRESHOLD",
                           "CYCLE_TIME",
                           "CACHE_CAPACITY",
                           "HIERARCHICAL_ALLREDUCE",
                           "HIERARCHICAL_ALLGATHER",
                           "AUTOTUNE",
                           "TIMELINE",
                           "TIMELINE_MARK_CYCLES",
                           "STALL_CHECK_DISABLE",
                           "STALL_CHECK_TIME_SECONDS",
                           "STALL_SHUTDOWN_TIME_SECONDS",
                           "LOG_LEVEL",
                           "LOG_HIDE_TIME",
                           "THREAD_AFFINITY",
                           "CONTROLLER",
                           "CPU_OPERATIONS",
                           "GLOO_IFACE",
                           "GLOO_TIMEOUT_SECONDS",
                           "NUM_NCCL_STREAMS",
                           "DYNAMIC_PROCESS_SETS",
                           "ENABLE_ASYNC_COMPLETION",
                           "ELASTIC_TIMEOUT",
                           "SECRET_KEY",
                           "START_TIMEOUT"}) {
    const Knob* knob = base::find_knob(name);
    ASSERT_NE(knob, nullptr) << name;
    EXPECT_EQ(knob->horovod, name);
  }
}

TEST(Config, EmptyEnvironmentGivesDefaults) {
  std::vector<std::string> warnings;
  const Config config = parsed({{"PATH", "/bin"}, {"KHORUS_CYCLE_TIME", ""}}, &warnings);
  EXPECT_EQ(config.fusion_threshold_bytes, 64 << 20);
  EXPECT_EQ(config.cycle_time_ms, 1.0);
  EXPECT_EQ(config.rank, -1);
  EXPECT_TRUE(warnings.empty());
}

TEST(Config, ReadsUnits) {
  EXPECT_EQ(parsed({{"KHORUS_FUSION_THRESHOLD", "12345"}}).fusion_threshold_bytes, 12345);
  EXPECT_EQ(parsed({{"KHORUS_FUSION_THRESHOLD", "1.5 MiB"}}).fusion_threshold_bytes, 3 << 19);
  EXPECT_EQ(parsed({{"KHORUS_FUSION_THRESHOLD", "2k"}}).fusion_threshold_bytes, 2048);
  EXPECT_EQ(parsed({{"HOROVOD_CYCLE_TIME", "3.5"}}).cycle_time_ms, 3.5);
  EXPECT_EQ(parsed({{"KHORUS_CYCLE_TIME", "2s"}}).cycle_time_ms, 2000.0);
  EXPECT_EQ(parsed({{"HOROVOD_STALL_CHECK_TIME_SECONDS", "90"}}).stall_warning_s, 90.0);
  EXPECT_EQ(parsed({{"KHORUS_STALL_CHECK_TIME_SECONDS", "2min"}}).stall_warning_s, 120.0);
  EXPECT_EQ(parsed({{"KHORUS_START_TIMEOUT", "500ms"}}).start_timeout_s, 0.5);
}

TEST(Config, ReadsBoolsLevelsAndNames) {
  EXPECT_TRUE(parsed({{"HOROVOD_STALL_CHECK_DISABLE", "1"}}).stall_check_disable);
  EXPECT_TRUE(parsed({{"KHORUS_LOG_HIDE_TIME", "Yes"}}).log_hide_time);
  EXPECT_FALSE(parsed({{"KHORUS_LOG_HIDE_TIME", "off"}}).log_hide_time);
  EXPECT_EQ(parsed({{"HOROVOD_LOG_LEVEL", "DEBUG"}}).log_level, LogLevel::kDebug);
  EXPECT_EQ(parsed({{"HOROVOD_CPU_OPERATIONS", "GLOO"}}).backend, "gloo");
  EXPECT_EQ(parsed({{"HOROVOD_GLOO_IFACE", "eth0"}}).network_interface, "eth0");
  EXPECT_EQ(parsed({{"KHORUS_GLOO_IFACE", "eth1"}}).network_interface, "eth1");
  EXPECT_EQ(parsed({{"KHORUS_TIMELINE", " a file "}}).timeline, " a file ");
}

TEST(Config, OwnNameWinsOverHorovods) {
  const Variables both = {{"KHORUS_CYCLE_TIME", "2"}, {"HOROVOD_CYCLE_TIME", "7"}};
  EXPECT_EQ(parsed(both).cycle_time_ms, 2.0);
}

TEST(Config, ErrorNamesVariableValueAndExpectation) {
  EXPECT_EQ(
      error_of({{"HOROVOD_CYCLE_TIME", "soon"}}),
      "invalid argument: HOROVOD_CYCLE_TIME=\"soon\": expected a time in milliseconds, such as "
      "1, 0.5ms or 2s, at least 0");
  for (const Variables& wrong : std::vector<Variables>{{{"KHORUS_CACHE_CAPACITY", "12abc"}},
                                                       {{"KHORUS_CACHE_CAPACITY", "-1"}},
                                                       {{"KHORUS_CYCLE_TIME", "nan"}},
                                                       {{"KHORUS_CYCLE_TIME", "1e999"}},
                                                       {{"KHORUS_FUSION_THRESHOLD", "3 parsecs"}},
                                                       {{"KHORUS_LOG_LEVEL", "loud"}},
                                                       {{"KHORUS_LOG_HIDE_TIME", "2"}},
                                                       {{"HOROVOD_AUTOTUNE", "perhaps"}}}) {
    const std::string error = error_of(wrong);
    EXPECT_NE(error.find(wrong.begin()->first + "=\"" + wrong.begin()->second + "\": expected"),
              std::string::npos)
        << error;
  }
}

TEST(Config, PlaceIsWholeOrAbsent) {
  EXPECT_EQ(parsed({{"KHORUS_RANK", "3"}, {"KHORUS_SIZE", "4"}}).rank, 3);
  EXPECT_NE(error_of({{"KHORUS_RANK", "4"}, {"KHORUS_SIZE", "4"}}), "no error");
  EXPECT_NE(error_of({{"KHORUS_RANK", "0"}}), "no error");
  EXPECT_NE(error_of({{"KHORUS_LOCAL_SIZE", "2"}}), "no error");
}

TEST(Config, OurVariablesMayComeFromAnotherLauncher) {
  const std::map<std::string, std::string> place = {{"KHORUS_RANK", "1"}, {"KHORUS_SIZE", "2"}};
  EXPECT_EQ(parsed(place).launcher, "");
  std::map<std::string, std::string> of_ray = place;
  of_ray["KHORUS_LAUNCHER"] = "Ray";
  of_ray["OMPI_COMM_WORLD_RANK"] = "0";  // mpirun has started Ray itself
  EXPECT_EQ(parsed(of_ray).launcher, "Ray");
  EXPECT_EQ(parsed(of_ray).rank, 1);
}

TEST(Config, UnknownNameWarnsWithTheNearest) {
  std::vector<std::string> warnings;
  parsed({{"KHORUS_FUSION_TRESHOLD", "1"}, {"HOROVOD_WHATEVER", "1"}, {"KHORUS_TEST_SOAK", "1"}},
         &warnings);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("KHORUS_FUSION_TRESHOLD"), std::string::npos);
  EXPECT_NE(warnings[0].find("KHORUS_FUSION_THRESHOLD"), std::string::npos);
}

TEST(Config, AcceptedKnobWarnsOnlyWhenItAsksForSomething) {
  std::vector<std::string> warnings;
  parsed({{"HOROVOD_HIERARCHICAL_ALLREDUCE", "0"},
          {"HOROVOD_CONTROLLER", "gloo"},
          {"HOROVOD_NUM_NCCL_STREAMS", "1"}},
         &warnings);
  EXPECT_TRUE(warnings.empty());
  parsed({{"HOROVOD_HIERARCHICAL_ALLREDUCE", "1"}, {"HOROVOD_SECRET_KEY", "c2VjcmV0"}}, &warnings);
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("HOROVOD_HIERARCHICAL_ALLREDUCE"), std::string::npos);
  EXPECT_EQ(warnings[1].find("c2VjcmV0"), std::string::npos) << "a secret in a warning";
}

}  // namespace
}  // namespace khorus
