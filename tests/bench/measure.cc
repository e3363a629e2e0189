// See measure.h.
#include "tests/bench/measure.h"

#include <khorus/khorus.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace khorus::bench {

using nlohmann::json;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

int64_t rounds_for(double seconds, const std::function<void()>& once) {
  for (int i = 0; i < 5; ++i) once();
  const auto start = Clock::now();
  for (int i = 0; i < 5; ++i) once();
  int64_t rounds =
      std::clamp<int64_t>(static_cast<int64_t>(seconds / seconds_since(start) * 5), 5, 20'000);
  khorus::broadcast("rounds", &rounds, 1, 0);
  return rounds;
}

std::vector<double> time_rounds(int64_t rounds, const std::function<void()>& once) {
  std::vector<double> times;
  khorus::barrier();
  for (int64_t i = 0; i < rounds; ++i) {
    const auto start = Clock::now();
    once();
    times.push_back(seconds_since(start) * 1e6);
  }
  return times;
}

ControlTraffic ControlTraffic::now() {
  ControlTraffic traffic;
  std::istringstream page(khorus::engine().metrics_text());
  for (std::string line; std::getline(page, line);) {
    const auto add_if = [&line](const char* family, double& sum) {
      if (line.starts_with(family)) sum += std::stod(line.substr(line.rfind(' ')));
    };
    add_if("khorus_control_messages_total{", traffic.messages);
    add_if("khorus_control_bytes_total{", traffic.bytes);
  }
  return traffic;
}

Stages stages_of(const std::string& kind, size_t most) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("khorus-bench." + std::to_string(getpid()));
  throw_if_error(khorus::engine().dump_flight_recorder(path.string()));
  json dump;
  std::ifstream(path) >> dump;
  std::filesystem::remove(path);
  Stages stages;
  const json& entries = dump.at("entries");
  for (auto entry = entries.rbegin(); entry != entries.rend() && stages.done.size() < most;
       ++entry) {
    if (entry->at("khorus_kind") != kind || entry->at("state") != "completed") continue;
    const auto between = [&entry](const char* from, const char* to) {
      return (entry->at(to).get<double>() - entry->at(from).get<double>()) * 1e-3;
    };
    stages.agreed.push_back(between("time_created_ns", "khorus_time_agreed_ns"));
    stages.dispatched.push_back(between("khorus_time_agreed_ns", "time_discovered_started_ns"));
    stages.done.push_back(between("time_discovered_started_ns", "time_discovered_completed_ns"));
  }
  return stages;
}

json summary(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  return {{"p50", quantile(values, 0.5)},
          {"p99", quantile(values, 0.99)},
          {"min", quantile(values, 0)},
          {"max", quantile(values, 1)}};
}

}  // namespace khorus::bench
