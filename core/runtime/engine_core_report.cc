// See engine_core.h. This file: what an engine tells of itself: statistics, metrics, dumps, and who
// did not come.
#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "core/base/rank_file.h"
#include "core/runtime/engine_core.h"
#include "core/runtime/error_file.h"
#include "core/runtime/stack_dump.h"

namespace khorus::runtime {
namespace {

constexpr int64_t kMaxSamples = 1 << 30;
// How long the end of an engine may wait for files that nobody else waits for.
constexpr std::chrono::seconds kFilePatience{5};

}  // namespace

Status EngineCore::check_knobs() const {
  const std::string& report = options_.config.straggler_report;
  if (report.empty() || report == "auto" || report == "always" || report == "never") return {};
  return Status(StatusCode::kInvalidArgument,
                "KHORUS_STRAGGLER_REPORT=\"" + report + "\": expected auto, always or never");
}

Status EngineCore::start_observing() {
  const Config& config = options_.config;
  if (config.stack_dumps) prepare_stack_dumps();
  if (!config.error_file.empty()) remove_error_file(config.error_file);
  if (!config.metrics_file.empty() || !config.metrics_json_file.empty()) {
    observer_.writer().repeat(
        std::chrono::duration_cast<Clock::duration>(
            std::chrono::duration<double>(std::min(config.metrics_interval_s, 1e6))),
        [this] { write_metrics(); });
  }
  if (config.timeline.empty()) return Status();
  return timeline().start(config.timeline, config.timeline_mark_cycles);
}

bool EngineCore::stop_writer() {
  if (observer_.writer().stop(Clock::now() + kFilePatience)) return true;
  logger_.error("metrics or a dump could not be written in time; is the file system there?");
  return false;
}

std::unique_ptr<Autotune> EngineCore::make_autotune() {
  const Config& config = options_.config;
  if (!config.autotune || options_.place.rank != 0) return nullptr;
  Autotune::Options tuning;
  tuning.tuner.start = Autotune::start_of(config);
  tuning.tuner.warmup_samples =
      static_cast<int>(std::min(config.autotune_warmup_samples, kMaxSamples));
  tuning.tuner.max_samples = static_cast<int>(std::min(config.autotune_max_samples, kMaxSamples));
  tuning.steps_per_sample = config.autotune_steps_per_sample;
  tuning.log_path = config.autotune_log;
  tuning.logger = &logger_;
  tuning.writer = &observer_.writer();
  return std::make_unique<Autotune>(std::move(tuning));
}

EngineStats EngineCore::stats() const {
  EngineStats stats = coordinator_->stats();
  stats.operations_submitted = submitted_.load(std::memory_order_relaxed);
  stats.operations_done = finished_elsewhere_.load(std::memory_order_relaxed) - finished_at_start_;
  for (const ProcessGroupPtr& group : groups_.all()) {
    stats.operations_done += group->lane()->finished_count();
    if (group->device().connected()) {
      stats.responses_executed += group->device().runner().executed();
      stats.bytes_reduced += group->device().runner().bytes_reduced();
    }
    if (!group->connected()) continue;
    stats.responses_executed += group->runner().executed();
    stats.bytes_reduced += group->runner().bytes_reduced();
  }
  return stats;
}

Status EngineCore::timed_out(const std::string& what) const {
  const std::string missing = missing_ranks_();
  return Status(StatusCode::kTimeout,
                "rank " + std::to_string(options_.place.rank) + " on " + host_ + " waited " +
                    std::to_string(static_cast<int64_t>(options_.config.start_timeout_s)) +
                    " s for all " + std::to_string(options_.place.size) + " ranks to start (" +
                    what + ")" + (missing.empty() ? "" : "; not there: rank " + missing) +
                    "; look at those ranks, or raise KHORUS_START_TIMEOUT");
}

MetricsPage EngineCore::metrics() const {
  Observer::EngineState state;
  state.stats = stats();
  state.node = coordinator_->node_stats();
  const protocol::FusionSettings fusion = coordinator_->fusion();
  state.fusion_threshold_bytes = fusion.threshold_bytes;
  state.flush_window_us = fusion.window_us;
  state.healthy = health().ok();
  return observer_.page(state);
}

void EngineCore::write_metrics() const {
  const MetricsPage page = metrics();
  const Config& config = options_.config;
  const auto report = [this](const Status& written) {
    if (!written.ok()) logger_.warning("metrics: " + written.message());
  };
  const int rank = options_.place.rank;
  if (!config.metrics_file.empty()) {
    report(base::replace_file(base::path_of_rank(config.metrics_file, rank), page.to_prometheus()));
  }
  if (config.metrics_json_file.empty()) return;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  report(base::append_to_file(base::path_of_rank(config.metrics_json_file, rank),
                              page.to_json_line(std::chrono::duration<double>(now).count())));
}

Status EngineCore::dump_flight_recorder(const std::string& path) const {
  return base::replace_file(path, observer_.flight_record("dump_flight_recorder() was called"));
}

}  // namespace khorus::runtime
