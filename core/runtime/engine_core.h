// EngineCore: the threads and resources of one engine, and the order in which they start and end.
//
// start(): control channel, coordinator thread, hello, backend, lane, timeline. stop(): leave,
// coordinator thread, lane, backend, timeline.
//
// Thread rule: start() by the creating thread; everything else from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/base/log.h"
#include "core/base/status_page.h"
#include "core/runtime/backend_loader.h"
#include "core/runtime/bootstrap.h"
#include "core/runtime/collective_runner.h"
#include "core/runtime/coordinator_thread.h"
#include "core/runtime/data_plane.h"
#include "core/runtime/hello.h"
#include "core/runtime/lane.h"
#include "core/runtime/observer.h"
#include "khorus/engine.h"

namespace khorus::runtime {

class EngineCore {
 public:
  using Clock = std::chrono::steady_clock;

  explicit EngineCore(const EngineOptions& options);
  // REQUIRES: stop() has returned true.
  ~EngineCore();
  EngineCore(const EngineCore&) = delete;
  EngineCore& operator=(const EngineCore&) = delete;

  // After an error, stop() is quick.
  Status start();
  // Idempotent. False: a thread could not be ended; the core must never be destroyed.
  bool stop();

  // Ok, or why not; then the works of the batch were not accepted.
  Status submit(Batch& batch);
  Status health() const { return coordinator_->health(); }
  EngineStats stats() const;
  uint64_t next_ticket() noexcept { return next_ticket_.fetch_add(1, std::memory_order_relaxed); }
  // "allreduce.float32[4].sum.unnamed.7"
  std::string next_unnamed(const std::string& signature);
  bool supports(const wire::Request& request) const;

  const Place& place() const noexcept { return options_.place; }
  const std::string& backend_name() const noexcept { return backend_name_; }
  const std::shared_ptr<Lane>& lane() const noexcept { return lane_; }
  Timeline& timeline() noexcept { return observer_.timeline(); }
  MetricsPage metrics() const;
  Status dump_flight_recorder(const std::string& path) const;

 private:
  Status start_all();
  void map_status_page();
  Status start_observing();
  void write_metrics() const;
  Status meet_ranks();
  Status greet(const BackendSearch& search);
  Status connect_data_plane(const BackendSearch& search);
  bool run(Job& job);
  void abort_data_plane(const Status& status);
  // Everyone's bytes by rank; Timeout at `deadline`.
  Result<std::vector<wire::Bytes>> exchange(const std::string& tag,
                                            std::span<const std::byte> bytes,
                                            Clock::time_point deadline);
  Status timed_out(const std::string& what) const;

  const EngineOptions options_;
  const std::string host_;
  base::Logger logger_;
  base::StatusPage status_page_;  // the launcher's; touched by the coordinator thread
  Observer observer_;
  const Clock::time_point start_deadline_;

  uint64_t epoch_ = 0;
  std::function<std::string()> missing_ranks_;
  std::shared_ptr<void> meeting_;  // until all have greeted each other
  std::shared_ptr<Lane> lane_;
  std::unique_ptr<CoordinatorThread> coordinator_;
  std::vector<Hello> hellos_;
  std::string backend_name_;
  std::unique_ptr<CollectiveRunner> runner_;

  std::mutex plane_mutex_;  // guards the two below until start() is over
  std::unique_ptr<DataPlane> plane_;
  std::optional<std::string> plane_abort_reason_;

  std::atomic<uint64_t> next_ticket_{1};
  std::atomic<uint64_t> next_exchange_{0};
  std::atomic<uint64_t> submitted_{0};
  uint64_t finished_at_start_ = 0;  // Khorus' own exchanges
  std::mutex unnamed_mutex_;
  std::unordered_map<std::string, uint64_t> unnamed_;

  std::mutex stop_mutex_;
  std::optional<bool> stopped_;
};

}  // namespace khorus::runtime
