// The convenience API of khorus.h over one default engine per process: the only global state.
//
// Thread rule: as khorus.h says. The holder is never destroyed: a program that ends without
// shutdown() gets one from atexit(), before the libraries it needs are gone.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <utility>

#include "core/base/log.h"
#include "khorus/khorus.h"

namespace khorus {
namespace {

struct DefaultEngine {
  std::mutex mutex;  // init() and shutdown()
  std::unique_ptr<Engine> owner;
  std::atomic<Engine*> engine{nullptr};
  std::atomic<pid_t> pid{0};
  std::shared_ptr<JobSession> session = make_job_session();
};

DefaultEngine& default_engine() {
  static auto* const instance = new DefaultEngine;
  return *instance;
}

void check_process() {
  const pid_t owner = default_engine().pid.load();
  if (owner == 0 || owner == getpid()) return;
  throw Error(Status(StatusCode::kUnavailable, "called in a forked child (pid " +
                                                   std::to_string(getpid()) +
                                                   "); khorus::init() was called in process " +
                                                   std::to_string(owner) + ", use Khorus there"));
}

// From the knobs: all of rank and size, or none.
Result<Place> place_from(const Config& config) {
  Place place;
  if (config.rank < 0 && config.size < 0) return place;
  if (!config.launcher.empty() && config.rank == 0) {
    const base::Logger logger(
        {.level = config.log_level, .hide_time = config.log_hide_time, .rank = 0, .sink = {}});
    logger.info("rank and size come from " + config.launcher);
  }
  if (config.rank < 0 || config.size < 0) {
    return Status(StatusCode::kInvalidArgument,
                  "KHORUS_RANK is " + std::to_string(config.rank) + " and KHORUS_SIZE is " +
                      std::to_string(config.size) + "; set both, or neither (-1: not set)");
  }
  const auto given = [](int64_t value, int64_t otherwise) {
    return static_cast<int>(value >= 0 ? value : otherwise);
  };
  place.rank = static_cast<int>(config.rank);
  place.size = static_cast<int>(config.size);
  place.local_rank = given(config.local_rank, config.rank);
  place.local_size = given(config.local_size, config.size);
  place.cross_rank = given(config.cross_rank, 0);
  place.cross_size = given(config.cross_size, 1);
  return place;
}

void shutdown_at_exit() {
  DefaultEngine& self = default_engine();
  if (self.pid.load() == getpid()) shutdown();
}

}  // namespace

Result<EngineOptions> EngineOptions::from_environment() {
  EngineOptions options;
  Result<Config> config = Config::from_environment();
  if (!config.ok()) return config.status();
  options.config = std::move(*config);
  const Result<Place> place = place_from(options.config);
  if (!place.ok()) return place.status();
  options.place = *place;
  return options;
}

void init() {
  check_process();
  const Result<EngineOptions> options = EngineOptions::from_environment();
  throw_if_error(options.status());
  init(*options);
}

void init(const EngineOptions& options) {
  check_process();
  DefaultEngine& self = default_engine();
  const std::lock_guard lock(self.mutex);
  if (self.owner != nullptr) return;
  EngineOptions complete = options;
  if (complete.session == nullptr) complete.session = self.session;
  Result<std::unique_ptr<Engine>> engine = Engine::create(complete);
  throw_if_error(engine.status());
  self.owner = std::move(*engine);
  self.pid.store(getpid());
  self.engine.store(self.owner.get(), std::memory_order_release);
  // Registered after the backend was loaded, hence run before the backend's own clean-up.
  std::atexit(shutdown_at_exit);
}

void shutdown() {
  DefaultEngine& self = default_engine();
  const std::lock_guard lock(self.mutex);
  if (self.owner == nullptr) return;
  self.engine.store(nullptr, std::memory_order_release);
  self.pid.store(0);
  self.owner.reset();
}

bool is_initialized() noexcept {
  return default_engine().engine.load(std::memory_order_acquire) != nullptr;
}

Engine& engine() {
  Engine* const current = default_engine().engine.load(std::memory_order_acquire);
  if (current == nullptr) {
    throw Error(
        Status(StatusCode::kUnavailable, "Khorus is not running; call khorus::init() first"));
  }
  return *current;
}

int rank() { return engine().place().rank; }
int size() { return engine().place().size; }
int local_rank() { return engine().place().local_rank; }
int local_size() { return engine().place().local_size; }
int cross_rank() { return engine().place().cross_rank; }
int cross_size() { return engine().place().cross_size; }

void barrier(ProcessSetId process_set) {
  throw_if_error(engine().barrier_async("", process_set)->wait());
}

int join() {
  const WorkPtr work = engine().join_async();
  throw_if_error(work->wait());
  return work->last_joined();
}

ProcessSetId add_process_set(const std::vector<int>& ranks) {
  const auto added = engine().add_process_set(ranks);
  throw_if_error(added.status());
  return *added;
}

void remove_process_set(ProcessSetId id) { throw_if_error(engine().remove_process_set(id)); }

}  // namespace khorus
