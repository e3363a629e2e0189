// See engine_core.h.
#include "core/runtime/engine_core.h"

#include <algorithm>
#include <condition_variable>
#include <numeric>
#include <utility>

#include "core/base/assert.h"
#include "core/net/mac.h"
#include "core/protocol/tensor_key.h"
#include "core/runtime/job_session.h"
#include "core/runtime/operation_check.h"
#include "core/wire/rank_set.h"

namespace khorus::runtime {

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(std::clamp(seconds, 0.0, 1e8) * 1e3));
}

namespace {

// How long a lane may take to return after its backend was aborted (the contract says one second).
constexpr std::chrono::seconds kAbortPatience{5};

int64_t microseconds_of(double seconds) {
  return static_cast<int64_t>(std::clamp(seconds, 0.0, 1e9) * 1e6);
}

base::Logger make_logger(const EngineOptions& options) {
  base::Logger::Options logging;
  logging.level = options.config.log_level;
  logging.hide_time = options.config.log_hide_time;
  logging.rank = options.place.size > 1 ? options.place.rank : -1;
  return base::Logger(logging);
}

protocol::NodeOptions node_options(const EngineOptions& options, uint64_t epoch) {
  const Config& config = options.config;
  protocol::NodeOptions node;
  node.rank = options.place.rank;
  node.size = options.place.size;
  node.epoch = epoch;
  node.fan_in = static_cast<int>(config.control_fan_in);
  node.fusion_threshold_bytes = config.fusion_threshold_bytes;
  node.flush_window_us = microseconds_of(config.cycle_time_ms * 1e-3);
  if (config.autotune) {
    const protocol::FusionSettings start = Autotune::start_of(config);
    node.fusion_threshold_bytes = start.threshold_bytes;
    node.flush_window_us = start.window_us;
  }
  node.max_in_flight = static_cast<int>(config.max_in_flight);
  node.cache_capacity = static_cast<size_t>(config.cache_capacity);
  node.stall_warning_us = config.stall_check_disable ? 0 : microseconds_of(config.stall_warning_s);
  node.stall_shutdown_us =
      config.stall_check_disable ? 0 : microseconds_of(config.stall_shutdown_s);
  if (config.straggler_report == "never") node.straggler_report = protocol::StragglerReport::kOff;
  if (config.straggler_report == "always") {
    node.straggler_report = protocol::StragglerReport::kAlways;
  }
  return node;
}

// Waits for a work like wait(), but not for ever.
bool wait_until(WorkState& work, std::chrono::steady_clock::time_point deadline) {
  struct Signal {
    std::mutex mutex;
    std::condition_variable changed;
    bool over = false;
  };
  const auto signal = std::make_shared<Signal>();  // the callback may come after this call
  work.on_done([signal](const Status&) {
    const std::lock_guard lock(signal->mutex);
    signal->over = true;
    signal->changed.notify_all();
  });
  std::unique_lock lock(signal->mutex);
  return signal->changed.wait_until(lock, deadline, [&] { return signal->over; });
}

}  // namespace

EngineCore::EngineCore(const EngineOptions& options)
    : options_(options),
      host_(own_identity().host),
      logger_(make_logger(options)),
      observer_({options_.place, host_, &options_.config, &logger_, &options_.interpreter_stacks}),
      start_deadline_(Clock::now() + milliseconds_of(options.config.start_timeout_s)) {}

EngineCore::~EngineCore() {
  KHORUS_ASSERT(stopped_.value_or(coordinator_ == nullptr),
                "an engine was destroyed while its threads run");
}

Status EngineCore::start() {
  Status status = start_all();
  if (status.ok()) return status;
  if (coordinator_ != nullptr) {
    coordinator_->end_now(status);
  } else {
    status_page_.note_failure(status);
    observer_.tell_launcher(status);
  }
  return status;
}

Status EngineCore::start_all() {
  map_status_page();
  Status status = check_place(options_.place);
  if (status.ok()) status = check_knobs();
  if (!status.ok()) return status;
  // Loading is slow; it need not hold up ranks that have met already.
  const BackendSearch search = find_backends(options_.config.backend_path);
  if (status = meet_ranks(); !status.ok()) return status;
  if (status = greet(search); !status.ok()) return status;
  if (status = connect_data_plane(search); !status.ok()) return status;
  return start_observing();
}

void EngineCore::map_status_page() {
  if (options_.config.status_fd < 0) return;
  Result<base::StatusPage> page =
      base::StatusPage::map(static_cast<int>(options_.config.status_fd));
  if (page.ok()) {
    status_page_ = std::move(*page);
  } else {
    logger_.warning("KHORUS_STATUS_FD: " + page.status().message());
  }
}

Status EngineCore::meet_ranks() {
  const protocol::Topology topology(options_.place.rank, options_.place.size,
                                    static_cast<int>(options_.config.control_fan_in));
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(start_deadline_ - Clock::now());
  Result<Meeting> meeting =
      meet(options_, topology, host_, std::max(left, std::chrono::milliseconds(1)));
  if (!meeting.ok()) return meeting.status();
  start_deadline_ += meeting->waited;
  epoch_ = meeting->epoch;
  object_key_ = meeting->object_key;
  observer_.set_epoch(epoch_);
  missing_ranks_ = std::move(meeting->missing_ranks);
  meeting_ = std::move(meeting->keep);
  std::vector<int> everyone(static_cast<size_t>(options_.place.size));
  std::iota(everyone.begin(), everyone.end(), 0);
  sets_[kGlobalProcessSet] = std::make_shared<const std::vector<int>>(everyone);
  world_ = groups_.add(kGlobalProcessSet, std::move(everyone));
  CoordinatorThread::Options options;
  options.node = node_options(options_, epoch_);
  options.channel = std::move(meeting->channel);
  options.groups = &groups_;
  options.observer = &observer_;
  options.autotune = make_autotune();
  options.logger = &logger_;
  options.status_page = &status_page_;
  options.liveness_timeout_us = microseconds_of(options_.config.liveness_timeout_s);
  coordinator_ = std::make_unique<CoordinatorThread>(std::move(options));
  coordinator_->start();
  return Status();
}

Status EngineCore::greet(const BackendSearch& search) {
  Hello own = own_identity();
  own.cache_capacity = options_.config.cache_capacity;
  own.requested_backend = options_.config.backend;
  for (const FoundBackend& found : search.backends) {
    own.backends.push_back(
        {found.name, found.backend != nullptr && found.backend->in_process_only != 0,
         found.backend != nullptr && found.backend->one_host_only != 0, found.problem.message()});
  }
  const auto gathered = exchange(*world_, "hello", encode(own), start_deadline_);
  if (!gathered.ok()) return gathered.status();
  meeting_.reset();  // everybody has met
  for (const wire::Bytes& bytes : *gathered) {
    Result<Hello> hello = decode_hello(bytes);
    if (!hello.ok()) return hello.status();
    hellos_.push_back(std::move(*hello));
  }
  coordinator_->set_peers(hellos_);
  // Another job with the same key file begins with the same epoch.
  const uint64_t& job = hellos_.front().nonce;
  object_key_ =
      net::Mac(object_key_).compute("khorus objects of a job", as_bytes(std::span(&job, 1)));
  return check_settings(hellos_);
}

Status EngineCore::connect_data_plane(const BackendSearch& search) {
  const Result<BackendChoice> choice = choose_backend(hellos_);
  if (!choice.ok()) return choice.status();
  backend_name_ = choice->name;
  observer_.set_backend(backend_name_);
  const auto found = std::find_if(search.backends.begin(), search.backends.end(),
                                  [&](const FoundBackend& b) { return b.name == choice->name; });
  KHORUS_ASSERT(found != search.backends.end(), "a backend was chosen that this rank has not");
  if (options_.place.rank == 0) {
    logger_.info("backend " + choice->name + " (" + found->origin + "): " + choice->reason);
    if (!choice->warning.empty()) logger_.warning(choice->warning);
  }

  backend_ = found->backend;
  device_choice_.set(search);
  groups_.device_lane().start([this](ProcessGroup& group, Job& job) { return launch(group, job); });
  const Status connected = connect(world_, start_deadline_);
  if (Status ready = all_are_ready(connected, start_deadline_); !ready.ok()) return ready;
  finished_at_start_ = lane()->finished_count();
  for (const std::vector<int>& ranks : options_.process_sets) {
    if (const auto added = add_process_set(ranks); !added.ok()) return added.status();
  }
  return Status();
}

// Nobody goes on before all are connected; a failure anywhere is the result everywhere.
Status EngineCore::all_are_ready(const Status& connected, Clock::time_point deadline) {
  const std::string& problem = connected.message();
  const auto ready = exchange(*world_, "ready", std::as_bytes(std::span(problem)), deadline);
  if (!connected.ok()) return connected;
  if (!ready.ok()) return ready.status();
  for (size_t rank = 0; rank < ready->size(); ++rank) {
    const wire::Bytes& bytes = (*ready)[rank];
    if (bytes.empty()) continue;
    return Status(StatusCode::kUnavailable,
                  "rank " + std::to_string(rank) + " (" + hellos_[rank].host + "): " +
                      std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  return Status();
}

Status EngineCore::connect(const ProcessGroupPtr& group, Clock::time_point deadline) {
  DataPlane::Options plane = plane_options(*group);
  plane.backend = backend_;
  // Not the group itself: it owns what owns this.
  plane.exchange = [this, weak = std::weak_ptr(group), deadline](
                       const std::string& tag,
                       std::span<const std::byte> bytes) -> Result<std::vector<wire::Bytes>> {
    const ProcessGroupPtr alive = weak.lock();
    if (alive == nullptr) return Status(StatusCode::kInternal, "the process set is gone");
    return exchange(*alive, tag, bytes, deadline);
  };
  CollectiveRunner::Options running;
  running.backend = backend_;
  running.rank = plane.rank;
  running.size = static_cast<int>(group->ranks().size());
  running.ranks = group->ranks();
  running.epoch = epoch_;
  running.fusion_limit_bytes = static_cast<size_t>(Autotune::largest_threshold(options_.config));
  running.timeline = &timeline();
  const Status connected = group->connect(std::move(plane), std::move(running));
  if (connected.ok()) {
    group->start([this, g = group.get()](Job& job) { return run(*g, job); });
    return Status();
  }
  // What comes to the lane all the same waits there for the engine's failure.
  group->start([](Job&) { return false; });
  const Status failure(connected.code(),
                       "the backend " + backend_name_ + " does not connect: " + connected.message(),
                       connected.lost_rank());
  coordinator_->data_plane_failed(failure);  // frees those that wait for this rank
  return failure;
}

bool EngineCore::run(ProcessGroup& group, Job& job) {
  observer_.started(job);
  return conclude(job, group.runner().run(job), backend_name_);
}

Result<std::vector<wire::Bytes>> EngineCore::exchange(const ProcessGroup& group,
                                                      const std::string& tag,
                                                      std::span<const std::byte> bytes,
                                                      Clock::time_point deadline) {
  // The parts of all ranks travel in one frame.
  const size_t limit = std::min(wire::Limits::kMaxPayloadBytes,
                                2 * wire::Limits::kFullFrameBytes / group.ranks().size());
  if (bytes.size() > limit) {
    return Status(StatusCode::kInvalidArgument,
                  "an exchange of " + std::to_string(bytes.size()) + " bytes; at most " +
                      std::to_string(limit) + " are possible with " +
                      std::to_string(group.ranks().size()) + " ranks");
  }
  uint64_t number = 0;
  {
    const std::lock_guard lock(sets_mutex_);
    number = exchanges_[{group.id(), tag}]++;
  }
  WorkState::Operation operation;
  operation.kind = OpKind::kExchange;
  operation.name = kInternalPrefix + tag + "/" + std::to_string(number);
  Batch batch;
  protocol::Submission submission;
  submission.ticket = next_ticket();
  submission.request.kind = OpKind::kExchange;
  submission.request.name = operation.name;
  submission.request.process_set = group.id();
  submission.payload.assign(bytes.begin(), bytes.end());
  batch.submissions.push_back(std::move(submission));
  const auto work = std::make_shared<WorkState>(std::move(operation), group.lane());
  batch.works.push_back(work);
  if (Status refused = coordinator_->submit(batch); !refused.ok()) return refused;
  if (!wait_until(*work, deadline)) return timed_out(tag);
  if (Status status = work->wait(); !status.ok()) return status;
  return work->payloads();
}

bool EngineCore::stop() {
  const std::lock_guard lock(stop_mutex_);
  if (stopped_.has_value()) return *stopped_;
  stopped_ = true;
  if (coordinator_ == nullptr) return *(stopped_ = stop_writer());
  const auto patience = milliseconds_of(options_.config.shutdown_timeout_s);
  if (options_.session != nullptr) options_.session->note_end(coordinator_->health());
  coordinator_->leave("shutdown() was called on rank " + std::to_string(options_.place.rank));
  if (!coordinator_->wait_ended(Clock::now() + patience)) {
    const Status late(StatusCode::kShutdown,
                      "shutdown() gave up after " +
                          std::to_string(static_cast<int64_t>(options_.config.shutdown_timeout_s)) +
                          " s because not all ranks have finished what was agreed before");
    logger_.error(late.message());
    coordinator_->end_now(late);
    if (!coordinator_->wait_ended(Clock::now() + kAbortPatience)) return *(stopped_ = false);
  }
  coordinator_->join();
  if (!groups_.stop(Clock::now() + kAbortPatience)) {
    logger_.error(
        "the backend " + backend_name_ +
        " did not return after it was aborted; its memory is kept until the process ends");
    return *(stopped_ = false);
  }
  if (timeline().enabled()) {
    const Status written = timeline().stop();
    if (!written.ok()) logger_.warning(written.message());
  }
  return *(stopped_ = stop_writer());
}

Status EngineCore::submit(Batch& batch) {
  const size_t count = batch.works.size();
  Status status = coordinator_->submit(batch);
  if (status.ok()) submitted_.fetch_add(count, std::memory_order_relaxed);
  return status;
}

std::string EngineCore::next_unnamed(const std::string& signature) {
  return signature + ".unnamed." + std::to_string(next_number(signature));
}

uint64_t EngineCore::next_number(const std::string& key) {
  const std::lock_guard lock(unnamed_mutex_);
  return unnamed_[key]++;
}

}  // namespace khorus::runtime
