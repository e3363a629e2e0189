// The timeline of operations on a GPU.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/gpu/engines.h"
#include "tests/unit/runtime/folder.h"

namespace khorus::test {
namespace {

struct Seen {
  int64_t begin = 0;
  int64_t end = 0;
};
// By row, the `event`s in their order.
std::map<int, std::vector<Seen>> all_of(const std::string& path, const std::string& event) {
  std::ifstream file(path);
  std::map<int, std::vector<Seen>> found;
  std::map<int, std::vector<std::pair<std::string, int64_t>>> open;
  for (const auto& record : nlohmann::json::parse(file)) {
    const std::string phase = record.at("ph");
    if (phase != "B" && phase != "E" && phase != "X") continue;
    const int row = record.at("pid");
    const int64_t time = record.at("ts");
    if (phase == "X" && record.at("name") == event) {
      found[row].push_back({time, time + record.at("dur").get<int64_t>()});
    } else if (phase == "B") {
      open[row].emplace_back(record.at("name"), time);
    } else if (phase == "E") {
      if (open[row].back().first == event) found[row].push_back({open[row].back().second, time});
      open[row].pop_back();
    }
  }
  return found;
}

// On the device they are later than the launch and earlier than what the host knows, and as they
// follow each other in one stream they do not overlap.
TEST(GpuTimes, OfOperationsAreInTheTimeline) {
  constexpr int kOperations = 6;
  const Folder folder;
  const std::string path = folder / "trace.json";
  Ranks ranks(2, {"local", false},
              [&](EngineOptions* options) { options->config.timeline = path; });
  ranks.run([](Engine& engine) {
    Framework gpu(engine.rank() % devices());
    const TensorView tensor = gpu.tensor(numbers(engine.rank()));
    for (int i = 0; i < kOperations; ++i) {
      ASSERT_TRUE(engine.allreduce_async("x", tensor, tensor, with(ReduceOp::kMax))->wait().ok());
    }
  });
  for (const std::string& file : {path, path + ".1"}) {
    const auto on_device = all_of(file, "ON_DEVICE");
    const auto known = all_of(file, "NCCL_ALLREDUCE");
    ASSERT_EQ(on_device.size(), 1U);
    ASSERT_EQ(known.size(), 1U);
    const std::vector<Seen>& inner = on_device.begin()->second;
    const std::vector<Seen>& outer = known.begin()->second;
    ASSERT_EQ(inner.size(), static_cast<size_t>(kOperations));
    ASSERT_EQ(outer.size(), static_cast<size_t>(kOperations));
    for (size_t i = 0; i < inner.size(); ++i) {
      EXPECT_GE(inner[i].begin, outer[i].begin - 1);  // microseconds are cut off
      EXPECT_LE(inner[i].begin, inner[i].end);
      EXPECT_LE(inner[i].end, outer[i].end);
      EXPECT_GE(inner[i].begin, i == 0 ? 0 : inner[i - 1].end);
    }
  }
}

}  // namespace
}  // namespace khorus::test
