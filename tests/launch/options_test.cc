// khorusrun's command line.
#include "core/launch/options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "core/base/config_table.h"
#include "core/launch/help.h"
#include "core/launch/hosts.h"
#include "core/launch/mpirun.h"

namespace khorus::launch {
namespace {

using Words = std::vector<std::string>;

LaunchOptions parsed(const Words& words) {
  const Result<LaunchOptions> options = parse_options(words);
  EXPECT_TRUE(options.ok()) << options.status().to_string();
  return options.ok() ? *options : LaunchOptions();
}

std::string error_of(const Words& words) {
  const Result<LaunchOptions> options = parse_options(words);
  return options.ok() ? "no error" : options.status().message();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Options, EverySpellingOfTheNumberOfRanks) {
  for (const Words& words : std::vector<Words>{{"-np", "4"},
                                               {"-np4"},
                                               {"-n", "4"},
                                               {"--num-proc", "4"},
                                               {"--num-proc=4"},
                                               {"--nproc-per-node=4"},
                                               {"--nproc_per_node", "4"},
                                               {"-H", "localhost:4"},
                                               {"--hosts", "localhost:3,127.0.0.1:1"}}) {
    Words all = words;
    all.push_back("prog");
    EXPECT_EQ(parsed(all).processes, 4) << words[0];
  }
}

TEST(Options, TheProgramsArgumentsAreItsOwn) {
  const Words program = {"prog", "-np", "7", "--", "--verbose", ""};
  Words words = {"-np", "2"};
  words.insert(words.end(), program.begin(), program.end());
  EXPECT_EQ(parsed(words).program, program);
  EXPECT_EQ(parsed({"-np", "2", "--", "-odd-name", "x"}).program, (Words{"-odd-name", "x"}));
}

TEST(Options, KnobsBecomeVariables) {
  const LaunchOptions options =
      parsed({"-np", "2", "--fusion-threshold-mb", "32", "--cycle-time-ms=2.5", "--no-stall-check",
              "--timeline-filename", "/tmp/t.json", "--timeline-mark-cycles", "--log-level", "INFO",
              "--stall-check-warning-time-seconds", "5", "--disable-cache", "prog"});
  EXPECT_EQ(options.environment.at("KHORUS_FUSION_THRESHOLD"), "32MiB");
  EXPECT_EQ(options.environment.at("KHORUS_CYCLE_TIME"), "2.5");
  EXPECT_EQ(options.environment.at("KHORUS_STALL_CHECK_DISABLE"), "1");
  EXPECT_EQ(options.environment.at("KHORUS_TIMELINE"), "/tmp/t.json");
  EXPECT_EQ(options.environment.at("KHORUS_TIMELINE_MARK_CYCLES"), "1");
  EXPECT_EQ(options.environment.at("KHORUS_STALL_CHECK_TIME_SECONDS"), "5");
  EXPECT_EQ(options.environment.at("KHORUS_CACHE_CAPACITY"), "0");
  EXPECT_EQ(options.environment.at("KHORUS_LOG_LEVEL"), "INFO");
}

TEST(Options, ErrorsSayWhich) {
  EXPECT_TRUE(contains(error_of({"prog"}), "-np"));
  EXPECT_TRUE(contains(error_of({"-np", "2"}), "which program"));
  EXPECT_TRUE(contains(error_of({"-np", "zero", "prog"}), "-np \"zero\""));
  EXPECT_TRUE(contains(error_of({"-np", "0", "prog"}), "from 1"));
  EXPECT_TRUE(contains(error_of({"-np"}), "needs a value"));
  EXPECT_TRUE(contains(error_of({"--verbose=3", "-np", "1", "p"}), "takes no value"));
  EXPECT_TRUE(contains(error_of({"--bogus", "-np", "1", "p"}), "unknown option --bogus"));
  EXPECT_TRUE(contains(error_of({"--cycle-time-ms", "x", "-np", "1", "p"}), "milliseconds"));
  EXPECT_TRUE(contains(error_of({"-np", "5", "-H", "localhost:4", "p"}), "4 slots"));
}

TEST(Options, WhatIsNotBuiltSaysSo) {
  for (const char* flag : {"--jsrun", "--min-np", "--max-np", "--host-discovery-script",
                           "--elastic-timeout", "--slots-per-host", "--ccl-bgt-affinity",
                           "--hierarchical-allreduce", "--blacklist-cooldown-range"}) {
    const std::string error = error_of({flag, "1", "-np", "1", "prog"});
    EXPECT_TRUE(contains(error, flag) && contains(error, "not built yet")) << error;
  }
  EXPECT_TRUE(contains(error_of({"--nnodes", "2", "-np", "1", "p"}), "--rdzv-endpoint"));
  EXPECT_EQ(parsed({"--nnodes=1", "--node-rank=0", "--gloo", "-np", "1", "p"}).processes, 1);
  EXPECT_EQ(parsed({"-H", host_name() + ":2", "p"}).processes, 2);
}

TEST(Options, NodesMeetAtNode0) {
  const LaunchOptions options = parsed({"--nnodes", "3", "--node_rank", "1", "--nproc-per-node",
                                        "2", "--master-addr", "node0", "--master-port", "99", "p"});
  EXPECT_EQ(options.rendezvous, "node0:99");
  EXPECT_EQ(options.first_rank(), 2);
  EXPECT_EQ(options.world_size(), 6);
  const Words nodes = {"--nnodes", "2", "--rdzv-endpoint", "a:1", "-np", "1"};
  const auto error = [&](Words more) {
    more.insert(more.begin(), nodes.begin(), nodes.end());
    more.push_back("p");
    return error_of(more);
  };
  EXPECT_EQ(error({}), "no error");
  EXPECT_TRUE(contains(error({"--node-rank", "2"}), "the last is 1"));
  EXPECT_TRUE(contains(error({"-H", "localhost:1"}), "-H"));
  EXPECT_TRUE(contains(error({"--reset-limit", "1"}), "--reset-limit"));
}

TEST(Options, AsHorovod) {
  const LaunchOptions options = parsed({"--as-horovod", "--python-package", "/p", "-np", "1", "x"});
  EXPECT_TRUE(options.as_horovod);
  EXPECT_EQ(options.python_package, "/p");
}

TEST(Options, RestartsAreCountedAndNotForMpirun) {
  EXPECT_EQ(parsed({"-np", "1", "p"}).restarts, 0);
  EXPECT_EQ(parsed({"--reset-limit", "3", "-np", "1", "p"}).restarts, 3);
  EXPECT_EQ(parsed({"--max_restarts=2", "-np", "1", "p"}).restarts, 2);
  EXPECT_TRUE(contains(error_of({"--reset-limit", "1", "--mpi", "-np", "1", "p"}), "--mpi"));
}

TEST(Options, MpirunHasArgumentsOfItsOwn) {
  EXPECT_FALSE(parsed({"-np", "1", "p"}).mpi);
  const LaunchOptions options = parsed({"--mpi", "--mpi-args=-x A --map-by slot", "-np", "1", "p"});
  EXPECT_TRUE(options.mpi);
  EXPECT_EQ(options.mpi_args, "-x A --map-by slot");
  EXPECT_TRUE(contains(error_of({"--mpi-args", "-v", "-np", "1", "p"}), "need --mpi"));
}

TEST(Mpirun, ArgumentsAreSplitAsAShellSplitsThem) {
  const auto words = [](const std::string& text) { return *split_words("--mpi-args", text); };
  EXPECT_EQ(words(""), std::vector<std::string>());
  EXPECT_EQ(words(" -x  A=\"b c\" --v '$x'"),
            (std::vector<std::string>{"-x", "A=b c", "--v", "$x"}));
  for (const char* bad : {"\"open", "a; b", "$(date)", "a | b", "$KHORUS_TEST_NO_SUCH_VARIABLE"}) {
    const auto refused = split_words("--mpi-args", bad);
    ASSERT_EQ(refused.status().code(), StatusCode::kInvalidArgument) << bad;
    EXPECT_TRUE(contains(refused.status().message(), bad)) << refused.status().message();
  }
}

TEST(Mpirun, TagsSayWhoseLineItIs) {
  const auto rank_and_rest = [](std::string_view line) {
    const int rank = take_rank_tag(&line).value_or(-1);
    return std::pair(rank, std::string(line));
  };
  using Pair = std::pair<int, std::string>;
  EXPECT_EQ(rank_and_rest("[1,3]<stdout>:text\n"), Pair(3, "text\n"));
  EXPECT_EQ(rank_and_rest("[prterun-a@1,12]<stderr>:"), Pair(12, ""));
  for (const char* own : {"", "mpirun detected", "[1,3]", "[1,3]<other>:x", "[,]<stdout>:x",
                          "[1,-3]<stdout>:x", "[1,3", "[1]<stdout>:, x", "x [1,3]<stdout>:y"}) {
    EXPECT_EQ(rank_and_rest(own), Pair(-1, own));
  }
}

TEST(Help, NamesEveryFlag) {
  const std::string help = help_text();
  for (const Flag& flag : flags()) {
    const std::string first(flag.spellings.substr(0, flag.spellings.find(", ")));
    EXPECT_TRUE(contains(help, first)) << first;
  }
  EXPECT_TRUE(contains(help, "--fusion-threshold-mb MiB"));
}

TEST(Help, NamesEverySettingThatHasAnOptionOnce) {
  const std::string help = help_text();
  for (const base::Knob& knob : base::knobs()) {
    const std::string head = "\n  --" + std::string(knob.flag);
    const bool shown = !knob.flag.empty() && knob.used();
    const std::string variable = "(KHORUS_" + std::string(knob.name) + ")\n";
    if (!shown) {
      EXPECT_FALSE(contains(help, variable)) << knob.name;
      continue;
    }
    const size_t at = help.find(head + (knob.type == base::KnobType::kBool ? "\n" : " "));
    ASSERT_NE(at, std::string::npos) << head;
    EXPECT_LT(at, help.find(variable)) << knob.name;
    EXPECT_EQ(help.find(variable), help.rfind(variable)) << knob.name;
  }
}

TEST(Help, FitsATerminalAndStandsInSections) {
  std::istringstream lines(help_text());
  std::vector<std::string> titles;
  bool after_empty = false;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 98U) << line;
    if (after_empty && !line.empty() && line.front() != ' ') titles.push_back(line);
    after_empty = line.empty();
  }
  for (const char* title : {"Output", "When a rank fails", "Data plane", "Watching"}) {
    EXPECT_EQ(std::ranges::count(titles, title), 1) << title;
  }
}

}  // namespace
}  // namespace khorus::launch
