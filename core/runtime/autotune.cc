// See autotune.h.
#include "core/runtime/autotune.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <utility>

#include "core/base/rank_file.h"
#include "core/protocol/fusion_planner.h"

namespace khorus::runtime {
namespace {

constexpr size_t kLongestStep = 4096;
constexpr int64_t kLargestStart = int64_t{1} << 40;  // so that multiples of it are numbers

}  // namespace

Autotune::Autotune(Options options) : options_(std::move(options)), tuner_(options_.tuner) {
  if (options_.log_path.empty()) return;
  options_.writer->post([path = options_.log_path, logger = options_.logger] {
    const Status written = base::replace_file(
        path, "fusion_threshold_bytes,flush_window_ms,bytes_per_second,result\n");
    if (!written.ok()) logger->warning("autotune: " + written.message());
  });
}

protocol::FusionSettings Autotune::start_of(const Config& config) {
  protocol::FusionSettings start;
  if (config.fusion_threshold_bytes > 0) {
    start.threshold_bytes = std::min(config.fusion_threshold_bytes, kLargestStart);
  }
  const auto window_us = static_cast<int64_t>(std::min(config.cycle_time_ms, 1e6) * 1e3);
  if (window_us > 0) start.window_us = window_us;
  return start;
}

int64_t Autotune::largest_threshold(const Config& config) {
  if (config.autotune) return protocol::FusionTuner::largest_threshold(start_of(config));
  return std::max<int64_t>(config.fusion_threshold_bytes, 0);
}

std::optional<protocol::FusionSettings> Autotune::agreed(
    std::span<const protocol::Execution> executions, protocol::TimeUs now) {
  std::optional<protocol::FusionSettings> change;
  for (const protocol::Execution& execution : executions) {
    for (const wire::ResponseTensor& tensor : execution.response.tensors) {
      if (tuner_.settled()) return change;
      if (begins_step(tensor.request.name)) {
        if (steps_to_skip_ > 0) {
          if (--steps_to_skip_ == 0) began_ = now;
        } else if (++steps_ >= options_.steps_per_sample && now > began_) {
          change = end_sample(now);
        }
      }
      if (steps_to_skip_ == 0) bytes_ += protocol::tensor_bytes(tensor);
    }
  }
  return change;
}

bool Autotune::begins_step(const std::string& name) {
  const size_t hash = std::hash<std::string>()(name);
  const bool begins = names_in_step_.contains(hash) || names_in_step_.size() >= kLongestStep;
  if (begins) names_in_step_.clear();
  names_in_step_.insert(hash);
  return begins;
}

std::optional<protocol::FusionSettings> Autotune::end_sample(protocol::TimeUs now) {
  const double score =
      static_cast<double>(std::exchange(bytes_, 0)) * 1e6 / static_cast<double>(now - began_);
  const protocol::FusionSettings used = tuner_.current();
  const std::string result = tuner_.sample(score);
  char line[160];
  std::snprintf(line, sizeof line, "%lld,%.6g,%.6g,%s\n",
                static_cast<long long>(used.threshold_bytes),
                static_cast<double>(used.window_us) * 1e-3, score, result.c_str());
  log_line(line);
  steps_ = 0;
  began_ = now;
  if (tuner_.settled()) {
    // Not a warning, but what the user has asked for: seen at the default level, once.
    options_.logger->warning("autotune: " + tuner_.verdict());
    log_line("# " + tuner_.verdict() + "\n");
  }
  if (tuner_.current() == used) return std::nullopt;
  steps_to_skip_ = 1;
  return tuner_.current();
}

void Autotune::log_line(const std::string& line) {
  if (options_.log_path.empty()) return;
  options_.writer->post([path = options_.log_path, line, logger = options_.logger] {
    const Status written = base::append_to_file(path, line);
    if (!written.ok()) logger->warning("autotune: " + written.message());
  });
}

}  // namespace khorus::runtime
