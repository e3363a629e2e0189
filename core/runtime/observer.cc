// See observer.h.
#include "core/runtime/observer.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <sstream>

#include "core/base/rank_file.h"
#include "core/base/upper_case.h"
#include "core/runtime/error_file.h"
#include "core/runtime/stack_dump.h"
#include "khorus/version.h"

namespace khorus::runtime {
namespace {

constexpr int64_t kMaxEntries = 1 << 20;  // of the flight recorder: 400 MB

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

uint64_t elapsed(int64_t from_ns, int64_t to_ns) {
  return static_cast<uint64_t>(std::max<int64_t>(to_ns - from_ns, 0));
}

// Khorus' own exchanges are not operations of the user's.
bool is_internal(OpKind kind) { return kind == OpKind::kExchange; }

// Not by a rank that has joined and only takes part in what others submit.
bool is_submitted(const WorkState& work) { return work.trail().submitted_ns != 0; }

// Of the order of all agreed operations: the same number on every rank.
std::string number(uint64_t position) { return "\"seq\":" + std::to_string(position); }

// "dtype":"float32","shape":"[2,3]": what Horovod says of an operation.
std::string arguments_of(const TensorView& tensor) {
  return R"("dtype":")" + std::string(to_string(tensor.dtype)) + R"(","shape":")" +
         to_string(tensor.shape) + "\"";
}

}  // namespace

Observer::Observer(const Options& options)
    : options_(options),
      timeline_(options.place.rank, options.host),
      recorder_(static_cast<size_t>(
          std::clamp<int64_t>(options.config->flight_recorder_entries, 0, kMaxEntries))),
      writer_(options.logger) {
  std::vector<int> all(static_cast<size_t>(options.place.size));
  for (size_t rank = 0; rank < all.size(); ++rank) all[rank] = static_cast<int>(rank);
  recorder_.set_group(kGlobalProcessSet, all);
}

void Observer::set_epoch(uint64_t epoch) {
  const std::lock_guard lock(mutex_);
  epoch_ = epoch;
}

void Observer::set_backend(const std::string& name) {
  const std::lock_guard lock(mutex_);
  backend_ = name;
}

// ---- the stages ----

void Observer::submitted(const Batch& batch) {
  const int64_t now = now_ns();
  for (size_t i = 0; i < batch.works.size(); ++i) {
    WorkState& work = *batch.works[i];
    const WorkState::Operation& operation = work.operation();
    if (timeline_.enabled()) {
      timeline_.begin(work.name(), "NEGOTIATE_" + base::upper_case(to_string(operation.kind)));
    }
    work.trail().submitted_ns = now;
    if (is_internal(operation.kind)) continue;
    metrics_.of(operation.kind).submitted.add();
    work.trail().record = recorder_.submitted(batch.submissions[i].request, operation.input.shape,
                                              operation.output.shape, now);
  }
}

void Observer::refused(const Batch& batch, const Status& status) {
  for (const WorkStatePtr& work : batch.works) over(*work, status);
}

void Observer::arrived(const std::vector<protocol::Arrival>& arrivals) {
  for (const protocol::Arrival& arrival : arrivals) {
    for (const int32_t rank : arrival.ranks.to_vector()) {
      timeline_.tick(arrival.name, std::to_string(rank));
    }
  }
}

void Observer::agreed(const Job& job, uint64_t first_position) {
  const int64_t now = now_ns();
  const OpKind kind = job.response.tensors.front().request.kind;
  const std::string event = timeline_.enabled() ? base::upper_case(to_string(kind)) : "";
  metrics_.fused_tensors.observe(job.works.size());
  for (size_t i = 0; i < job.works.size(); ++i) {
    WorkState& work = *job.works[i];
    if (is_submitted(work)) {
      const uint64_t took_ns = elapsed(work.trail().submitted_ns, now);
      metrics_.of(kind).negotiation.observe(took_ns);
      if (kind == OpKind::kAllreduce) metrics_.reductions.negotiated(took_ns);
    }
    work.trail().agreed_ns = now;
    recorder_.agreed(work.trail().record, first_position + i, first_position,
                     static_cast<uint32_t>(job.works.size()), now);
    if (!event.empty()) {
      timeline_.end(work.name(), number(first_position + i));
      timeline_.begin(work.name(), event, arguments_of(work.operation().input));
      timeline_.begin(work.name(), "QUEUE");
    }
  }
}

void Observer::over(const WorkState& work, const Status& status, uint64_t position) {
  timeline_.end(work.name(), position == 0 ? "" : number(position));
  const OpKind kind = work.operation().kind;
  if (is_internal(kind)) return;
  const uint64_t record = work.trail().record;
  if (!status.ok()) {
    metrics_.errors.at(static_cast<size_t>(status.code())).add();
    recorder_.failed(record, status.code());
    return;
  }
  const int64_t now = now_ns();
  metrics_.of(kind).done.add();
  metrics_.of(kind).negotiation.observe(elapsed(work.trail().submitted_ns, now));
  recorder_.agreed(record, position, position, 1, now);
  recorder_.completed(record, nullptr, now);
}

void Observer::started(const Job& job) {
  const int64_t now = now_ns();
  Metrics::OfKind& kind = metrics_.of(job.response.tensors.front().request.kind);
  for (const WorkStatePtr& work : job.works) {
    work->trail().started_ns = now;
    if (!is_submitted(*work)) continue;
    kind.queue.observe(elapsed(work->trail().agreed_ns, now));
    recorder_.started(work->trail().record, now);
  }
}

void Observer::finished(const Job& job, const Status& status) {
  const int64_t now = now_ns();
  const OpKind operation = job.response.tensors.front().request.kind;
  Metrics::OfKind& kind = metrics_.of(operation);
  size_t bytes = 0;
  for (const WorkStatePtr& work : job.works) {
    if (!is_submitted(*work)) continue;
    const WorkState::Trail& trail = work->trail();
    if (!status.ok()) {
      metrics_.errors.at(static_cast<size_t>(status.code())).add();
      recorder_.failed(trail.record, status.code());
      continue;
    }
    kind.done.add();
    bytes += work->operation().input.bytes();
    recorder_.completed(trail.record, &work->operation().output.shape, now);
  }
  kind.bytes.add(bytes);
  kind.responses.add();
  if (job.works.empty()) return;
  const uint64_t took_ns = elapsed(job.works.front()->trail().started_ns, now);
  kind.execution.observe(took_ns);
  if (operation == OpKind::kAllreduce) metrics_.reductions.executed(bytes, took_ns);
}

void Observer::waited_for() {
  if (!options_.config->stack_dumps || dumping_stacks_.exchange(true)) return;
  writer_.post([this] {
    const base::Logger& logger = *options_.logger;
    logger.warning("stacks: others wait for this rank (" + options_.host + ", pid " +
                   std::to_string(getpid()) + "), whose threads are here:");
    for (const std::string& line : native_stacks()) logger.warning("stacks: " + line);
    if (*options_.interpreter_stacks != nullptr) {
      std::istringstream text((*options_.interpreter_stacks)());
      for (std::string line; std::getline(text, line);) logger.warning("stacks: " + line);
    }
    dumping_stacks_ = false;
  });
}

void Observer::tell_launcher(const Status& status) {
  const std::string& path = options_.config->error_file;
  if (path.empty() || status.code() == StatusCode::kShutdown) return;
  std::vector<std::string> paths{path};
  const std::string of_the_lost = error_file_of(status.lost_rank(), options_.place, path);
  if (!of_the_lost.empty()) paths.push_back(of_the_lost);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  writer_.post(
      [this, paths,
       text = error_file_text(status, options_.place, options_.host,
                              std::chrono::duration_cast<std::chrono::seconds>(now).count())] {
        for (const std::string& file : paths) {
          const Status written = write_error_file(file, text);
          if (!written.ok())
            options_.logger->warning("torchrun's error file: " + written.message());
        }
      });
}

void Observer::failed(const Status& status) {
  if (metrics_.engine_failures.value() > 0) return;
  metrics_.engine_failures.add();
  tell_launcher(status);
  const std::string& prefix = options_.config->flight_recorder_path;
  if (prefix.empty() || !recorder_.enabled()) return;
  writer_.post([this, status, path = prefix + std::to_string(options_.place.rank)] {
    const Status written = base::replace_file(path, flight_record(status.to_string()));
    if (written.ok()) {
      options_.logger->info("the last operations are in \"" + path + "\"");
    } else {
      options_.logger->warning("flight recorder: " + written.message());
    }
  });
}

// ---- what is told ----

FlightRecorder::Header Observer::header() const {
  FlightRecorder::Header header;
  header.rank = options_.place.rank;
  header.size = options_.place.size;
  header.host = options_.host;
  header.timeout_ms = static_cast<int64_t>(options_.config->gloo_timeout_s * 1e3);
  const std::lock_guard lock(mutex_);
  header.epoch = epoch_;
  header.backend = backend_;
  return header;
}

std::string Observer::flight_record(const std::string& reason) const {
  FlightRecorder::Header about = header();
  about.reason = reason;
  return recorder_.to_json(about);
}

MetricsPage Observer::page(const EngineState& state) const {
  const FlightRecorder::Header about = header();
  MetricsPage page(MetricsPage::Labels{{"rank", std::to_string(about.rank)}});
  page.family("khorus_info", "gauge", "1; the labels say what runs.");
  page.sample(1, {{"backend", about.backend},
                  {"host", about.host},
                  {"size", std::to_string(about.size)},
                  {"version", KHORUS_VERSION_STRING}});
  page.family("khorus_healthy", "gauge", "1 while operations can be submitted.");
  page.sample(state.healthy ? 1 : 0);
  page.family("khorus_epoch", "gauge", "Epoch of the membership.");
  page.sample(static_cast<double>(about.epoch));
  add_operations(&page, about.backend);
  add_control(&page, state);
  return page;
}

void Observer::add_operations(MetricsPage* page, const std::string& backend) const {
  const auto labels = [&](OpKind kind) {
    return MetricsPage::Labels{{"kind", std::string(to_string(kind))}, {"backend", backend}};
  };
  // Only kinds that have been used: a page of zeros helps nobody.
  const auto each_kind = [&](auto&& add) {
    for (int k = 0; k < kOpKindCount; ++k) {
      const auto kind = static_cast<OpKind>(k);
      if (metrics_.of(kind).submitted.value() > 0) add(kind, metrics_.of(kind));
    }
  };
  const auto count = [&](const char* name, const char* help, Counter Metrics::OfKind::*counter) {
    page->family(name, "counter", help);
    each_kind([&](OpKind kind, const Metrics::OfKind& of_kind) {
      page->sample(static_cast<double>((of_kind.*counter).value()), labels(kind));
    });
  };
  const auto time = [&](const char* name, const char* help, Histogram Metrics::OfKind::*times) {
    page->family(name, "histogram", help);
    each_kind([&](OpKind kind, const Metrics::OfKind& of_kind) {
      page->histogram(of_kind.*times, 1e-9, labels(kind));
    });
  };
  count("khorus_operations_submitted_total", "Operations submitted by this rank.",
        &Metrics::OfKind::submitted);
  count("khorus_operations_total", "Operations done well.", &Metrics::OfKind::done);
  count("khorus_operation_bytes_total", "Bytes of the input tensors of operations done well.",
        &Metrics::OfKind::bytes);
  count("khorus_responses_total", "Fused operations run on the data plane.",
        &Metrics::OfKind::responses);
  time("khorus_negotiation_seconds", "From submit to agreement, by operation.",
       &Metrics::OfKind::negotiation);
  time("khorus_queue_seconds", "From agreement to the data plane, by operation.",
       &Metrics::OfKind::queue);
  time("khorus_execution_seconds", "On the data plane, by fused operation.",
       &Metrics::OfKind::execution);
  page->family("khorus_fused_tensors", "histogram", "Tensors of this rank in a fused operation.");
  page->histogram(metrics_.fused_tensors, 1);
  page->family("khorus_operation_errors_total", "counter",
               "Operations that ended with an error before or on the data plane.");
  for (size_t code = 1; code < Metrics::kStatusCodes; ++code) {
    page->sample(static_cast<double>(metrics_.errors.at(code).value()),
                 {{"error", std::string(status_code_name(static_cast<StatusCode>(code)))}});
  }
  page->family("khorus_engine_failures_total", "counter", "1 once this engine has failed.");
  page->sample(static_cast<double>(metrics_.engine_failures.value()));
}

void Observer::add_control(MetricsPage* page, const EngineState& state) {
  const auto add = [&](const char* name, const char* type, const char* help, uint64_t value) {
    page->family(name, type, help);
    page->sample(static_cast<double>(value));
  };
  const auto both = [&](const char* name, const char* help, uint64_t sent, uint64_t received) {
    page->family(name, "counter", help);
    page->sample(static_cast<double>(sent), {{"direction", "sent"}});
    page->sample(static_cast<double>(received), {{"direction", "received"}});
  };
  const EngineStats& stats = state.stats;
  add("khorus_operations_in_flight", "gauge", "Submitted and not over.",
      stats.operations_submitted - std::min(stats.operations_done, stats.operations_submitted));
  add("khorus_cache_hits_total", "counter", "Operations negotiated by a cache id.",
      stats.tensors_from_cache);
  add("khorus_cache_misses_total", "counter", "Operations negotiated in full.",
      state.node.submitted - std::min(state.node.submitted_from_cache, state.node.submitted));
  add("khorus_cached_operations", "gauge", "Operations in the response cache.",
      state.node.cached_tensors);
  add("khorus_decisions_total", "counter", "Decision rounds applied.", state.node.decisions);
  add("khorus_stall_reports_total", "counter", "Stalls reported to this rank.",
      state.node.stall_reports);
  both("khorus_control_messages_total", "Frames on the control channel.",
       stats.control_messages_sent, stats.control_messages_received);
  both("khorus_control_bytes_total", "Bytes of these frames.", stats.control_bytes_sent,
       stats.control_bytes_received);
  page->family("khorus_fusion_threshold_bytes", "gauge",
               "Fusion threshold in force (only rank 0 decides).");
  page->sample(static_cast<double>(state.fusion_threshold_bytes));
  page->family("khorus_flush_window_seconds", "gauge",
               "Flush window in force (only rank 0 decides).");
  page->sample(static_cast<double>(state.flush_window_us) * 1e-6);
}

}  // namespace khorus::runtime
