// What is counted, and the page that is made of it. tests/observability parses whole pages with
// Prometheus' own library.
#include "core/runtime/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "core/runtime/background_writer.h"
#include "tests/unit/runtime/folder.h"
#include "tests/unit/runtime/ranks.h"

namespace khorus::test {
namespace {

using runtime::BackgroundWriter;
using runtime::Histogram;
using runtime::MetricsPage;
using testing::HasSubstr;

// The samples of a page: "name{labels}" -> value.
std::map<std::string, double> samples_of(const std::string& page) {
  std::map<std::string, double> samples;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("#")) continue;
    const size_t blank = line.rfind(' ');
    EXPECT_TRUE(samples.emplace(line.substr(0, blank), std::stod(line.substr(blank + 1))).second)
        << line;
  }
  return samples;
}

TEST(Histogram, CountsByUpperBound) {
  constexpr std::array<uint64_t, 3> kBounds = {10, 100, 1000};
  Histogram histogram(kBounds);
  for (const uint64_t value : {0U, 10U, 11U, 100U, 1001U, 5000U}) histogram.observe(value);
  EXPECT_EQ(histogram.count(0), 2U);
  EXPECT_EQ(histogram.count(1), 2U);
  EXPECT_EQ(histogram.count(2), 0U);
  EXPECT_EQ(histogram.count(3), 2U);
  EXPECT_EQ(histogram.sum(), 6122U);
}

TEST(MetricsPage, BothForms) {
  constexpr std::array<uint64_t, 2> kBounds = {1'000'000, 2'500'000};
  Histogram histogram(kBounds);
  histogram.observe(500'000);
  histogram.observe(3'000'000);
  MetricsPage page(MetricsPage::Labels{{"rank", "3"}});
  page.family("khorus_a_total", "counter", "Help.");
  page.sample(12, {{"kind", "a\"b\\c\nd"}});
  page.family("khorus_b_seconds", "histogram", "More.");
  page.histogram(histogram, 1e-9);
  EXPECT_EQ(page.to_prometheus(),
            "# HELP khorus_a_total Help.\n"
            "# TYPE khorus_a_total counter\n"
            "khorus_a_total{rank=\"3\",kind=\"a\\\"b\\\\c\\nd\"} 12\n"
            "# HELP khorus_b_seconds More.\n"
            "# TYPE khorus_b_seconds histogram\n"
            "khorus_b_seconds_bucket{rank=\"3\",le=\"0.001\"} 1\n"
            "khorus_b_seconds_bucket{rank=\"3\",le=\"0.0025\"} 1\n"
            "khorus_b_seconds_bucket{rank=\"3\",le=\"+Inf\"} 2\n"
            "khorus_b_seconds_sum{rank=\"3\"} 0.0035\n"
            "khorus_b_seconds_count{rank=\"3\"} 2\n");
  const auto json = nlohmann::json::parse(page.to_json_line(1.5));
  EXPECT_EQ(json.at("time"), 1.5);
  EXPECT_EQ(json.at("rank"), "3");
  EXPECT_EQ(json.at("samples").at("khorus_b_seconds_count{rank=\"3\"}"), 2);
  EXPECT_EQ(json.at("samples").size(), 6U);
}

TEST(Metrics, OfAnEngine) {
  Ranks ranks(2);
  ranks.run([](Engine& engine) {
    std::vector<float> a(10), b(6);
    for (int i = 0; i < 3; ++i) {
      const auto works = engine.grouped_allreduce_async(
          "g", {{"a", view_of(a), view_of(a)}, {"b", view_of(b), view_of(b)}}, {});
      ASSERT_TRUE(wait_all(works).ok());
    }
    ASSERT_TRUE(engine.barrier_async("end")->wait().ok());
    const int extent = engine.rank() == 0 ? 3 : 4;
    std::vector<float> wrong(static_cast<size_t>(extent));
    const Status mismatch =
        engine.allreduce_async("wrong", view_of(wrong), view_of(wrong), {})->wait();
    ASSERT_EQ(mismatch.code(), StatusCode::kMismatch);

    const auto samples = samples_of(engine.metrics_text());
    ASSERT_TRUE(engine.barrier_async("nobody leaves before")->wait().ok());
    const std::string rank = "rank=\"" + std::to_string(engine.rank()) + "\"";
    const std::string allreduce = "{" + rank + R"(,kind="allreduce",backend="local"})";
    const std::string barrier = "{" + rank + R"(,kind="barrier",backend="local"})";
    EXPECT_EQ(samples.at("khorus_operations_submitted_total" + allreduce), 7);
    EXPECT_EQ(samples.at("khorus_operations_total" + allreduce), 6);
    EXPECT_EQ(samples.at("khorus_operation_bytes_total" + allreduce), 3 * 16 * 4);
    EXPECT_EQ(samples.at("khorus_responses_total" + allreduce), 3);
    EXPECT_EQ(samples.at("khorus_negotiation_seconds_count" + allreduce), 6);
    EXPECT_EQ(samples.at("khorus_queue_seconds_count" + allreduce), 6);
    EXPECT_EQ(samples.at("khorus_execution_seconds_count" + allreduce), 3);
    EXPECT_GT(samples.at("khorus_execution_seconds_sum" + allreduce), 0);
    EXPECT_EQ(samples.at("khorus_operations_total" + barrier), 1);
    EXPECT_EQ(samples.at("khorus_fused_tensors_sum{" + rank + "}"), 6);
    EXPECT_EQ(samples.at("khorus_operation_errors_total{" + rank + ",error=\"mismatch\"}"), 1);
    EXPECT_EQ(samples.at("khorus_operations_in_flight{" + rank + "}"), 0);
    EXPECT_EQ(samples.at("khorus_healthy{" + rank + "}"), 1);
    EXPECT_EQ(samples.at("khorus_cache_hits_total{" + rank + "}"), 4);
    EXPECT_GT(samples.at("khorus_control_messages_total{" + rank + ",direction=\"sent\"}"), 0);
    EXPECT_EQ(samples.at("khorus_fusion_threshold_bytes{" + rank + "}"), 64 << 20);
    EXPECT_EQ(samples.at("khorus_flush_window_seconds{" + rank + "}"), 0.001);
  });
}

TEST(Metrics, FilesOfEveryRankAreThereAtTheEnd) {
  const Folder folder;
  Ranks ranks(2, {}, [&](EngineOptions* options) {
    options->config.metrics_file = folder / "m_{rank}.prom";
    options->config.metrics_json_file = folder / "m.jsonl";
  });
  ranks.run([](Engine& engine) { ASSERT_TRUE(engine.barrier_async()->wait().ok()); });
  for (const int rank : {0, 1}) {
    const auto samples = samples_of(contents(folder / ("m_" + std::to_string(rank) + ".prom")));
    EXPECT_EQ(samples.at("khorus_operations_total{rank=\"" + std::to_string(rank) +
                         "\",kind=\"barrier\",backend=\"local\"}"),
              1);
  }
  EXPECT_EQ(nlohmann::json::parse(contents(folder / "m.jsonl")).at("rank"), "0");
  EXPECT_EQ(nlohmann::json::parse(contents(folder / "m.jsonl.1")).at("rank"), "1");
}

TEST(BackgroundWriter, RepeatsAtIntervalsAndOnceMoreAtTheEnd) {
  const base::Logger logger;
  BackgroundWriter writer(&logger);
  std::mutex mutex;
  std::condition_variable changed;
  int repeated = 0;
  bool posted = false;
  writer.repeat(std::chrono::milliseconds(1), [&] {
    const std::lock_guard lock(mutex);
    ++repeated;
    changed.notify_all();
  });
  int before = 0;
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return repeated >= 3; });
  }
  writer.post([&] {
    const std::lock_guard lock(mutex);
    posted = true;
    before = repeated;
  });
  ASSERT_TRUE(writer.stop(BackgroundWriter::Clock::now() + std::chrono::seconds(30)));
  EXPECT_TRUE(posted);
  EXPECT_GT(repeated, before);
  writer.post([&] { FAIL() << "after the end"; });
}

TEST(BackgroundWriter, GivesUpOnATaskThatDoesNotReturn) {
  const base::Logger logger;
  BackgroundWriter writer(&logger);
  std::mutex gate;
  {
    const std::lock_guard closed(gate);
    writer.post([&] { const std::lock_guard wait(gate); });
    EXPECT_FALSE(writer.stop(BackgroundWriter::Clock::now() + std::chrono::milliseconds(20)));
  }
  EXPECT_TRUE(writer.stop(BackgroundWriter::Clock::now() + std::chrono::seconds(30)));
}

}  // namespace
}  // namespace khorus::test
