// The timeline is JSON that a trace viewer reads, with Horovod's event names.
#include "core/runtime/timeline.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/runtime/folder.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

// Parses the file, checks that begins and ends pair up and times do not run backwards; returns how
// often each event began.
std::map<std::string, int> events_of(const std::string& path) {
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file);
  std::map<std::string, int> counts;
  std::map<int, int> depth;
  int64_t last = 0;
  for (const auto& event : json) {
    const std::string phase = event.at("ph");
    if (phase == "M") continue;
    EXPECT_GE(event.at("ts").get<int64_t>(), last);
    last = event.at("ts");
    int& open = depth[event.at("pid")];
    if (phase == "B") ++open;
    if (phase == "E") --open;
    EXPECT_GE(open, 0);
    if (phase != "E") ++counts[event.at("name")];
  }
  for (const auto& [pid, open] : depth) EXPECT_EQ(open, 0) << "row " << pid;
  return counts;
}

TEST(Timeline, OfAnEngine) {
  const Folder folder;
  const std::string path = folder / "trace.json";
  Ranks ranks(2, {kBackends.back(), false}, [&](EngineOptions* options) {
    options->config.timeline = path;
    options->config.timeline_mark_cycles = true;
  });
  ranks.run([](Engine& engine) {
    std::vector<float> a(10), b(10);
    for (int i = 0; i < 3; ++i) {
      const auto works = engine.grouped_allreduce_async(
          "g", {{"a\"\\\n\xff", view_of(a), view_of(a)}, {"b", view_of(b), view_of(b)}}, {});
      ASSERT_TRUE(wait_all(works).ok());
    }
    ASSERT_TRUE(engine.broadcast_async("c", view_of(a), view_of(a), 0)->wait().ok());
    ASSERT_TRUE(engine.barrier_async()->wait().ok());
  });
  const std::string backend = kBackends.back() == "gloo" ? "GLOO_" : "SHM_";
  for (const std::string& file : {path, path + ".1"}) {
    auto events = events_of(file);
    EXPECT_EQ(events["NEGOTIATE_ALLREDUCE"], 6);
    EXPECT_EQ(events["ALLREDUCE"], 6);
    EXPECT_EQ(events["QUEUE"], 7);
    EXPECT_EQ(events["MEMCPY_IN_FUSION_BUFFER"], 6);
    EXPECT_EQ(events[backend + "ALLREDUCE"], 6);
    EXPECT_EQ(events["MEMCPY_OUT_FUSION_BUFFER"], 6);
    EXPECT_EQ(events[backend + "BROADCAST"], 1);
    EXPECT_EQ(events["NEGOTIATE_BARRIER"], 1);
    EXPECT_GE(events["CYCLE_START"], 5);
  }
}

TEST(Timeline, StartsAndStopsWhileTheEngineRuns) {
  const Folder folder;
  Ranks(1).run([&](Engine& engine) {
    EXPECT_EQ(engine.stop_timeline().code(), StatusCode::kUnavailable);
    EXPECT_EQ(engine.start_timeline(folder / "no/such/folder").code(), StatusCode::kUnavailable);
    std::vector<float> a(10);
    for (int round = 0; round < 2; ++round) {
      const std::string path = folder / std::to_string(round);
      ASSERT_TRUE(engine.start_timeline(path).ok());
      EXPECT_EQ(engine.start_timeline(path).code(), StatusCode::kUnavailable);
      ASSERT_TRUE(engine.allreduce_async("a", view_of(a), view_of(a), {})->wait().ok());
      ASSERT_TRUE(engine.stop_timeline().ok());
      EXPECT_EQ(events_of(path)["ALLREDUCE"], 1);
      EXPECT_EQ(events_of(path)["CYCLE_START"], 0);
      ASSERT_TRUE(engine.allreduce_async("a", view_of(a), view_of(a), {})->wait().ok());
    }
  });
}

TEST(Timeline, ThreadsMayRecordWhileItStops) {
  const Folder folder;
  runtime::Timeline timeline(3);
  for (int round = 0; round < 10; ++round) {
    const std::string path = folder / "t";
    ASSERT_TRUE(timeline.start(path, true).ok());
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 500; ++i) {
          timeline.begin(std::to_string(t), "EVENT");
          timeline.end(std::to_string(t));
          timeline.mark("MARK");
        }
      });
    }
    if (round % 2 == 0) {
      for (std::thread& thread : threads) thread.join();
      threads.clear();
    }
    ASSERT_TRUE(timeline.stop().ok());
    auto events = events_of(path + ".3");
    if (round % 2 == 0) {
      EXPECT_EQ(events["EVENT"], 1500);
      EXPECT_EQ(events["MARK"], 1500);
    }
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace
}  // namespace khorus::test
