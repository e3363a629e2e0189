// EngineCore: the threads and resources of one engine, and the order in which they start and end.
//
// start(): control channel, coordinator thread, hello, backend, lane, timeline. stop(): leave,
// coordinator thread, lane, backend, timeline.
//
// Thread rule: start() by the creating thread; everything else from any thread.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/base/log.h"
#include "core/base/status_page.h"
#include "core/runtime/backend_loader.h"
#include "core/runtime/bootstrap.h"
#include "core/runtime/collective_runner.h"
#include "core/runtime/coordinator_thread.h"
#include "core/runtime/data_plane.h"
#include "core/runtime/device_choice.h"
#include "core/runtime/hello.h"
#include "core/runtime/lane.h"
#include "core/runtime/observer.h"
#include "core/runtime/process_group.h"
#include "khorus/engine.h"

namespace khorus::runtime {

// Of a knob in seconds; within what a clock can add.
std::chrono::milliseconds milliseconds_of(double seconds);

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
  const std::array<std::byte, 32>& object_key() const noexcept { return object_key_; }
  uint64_t next_ticket() noexcept { return next_ticket_.fetch_add(1, std::memory_order_relaxed); }
  // Counts the calls with this key from 0.
  uint64_t next_number(const std::string& key);
  // "allreduce.float32[4].sum.unnamed.7"
  std::string next_unnamed(const std::string& signature);
  // REQUIRES: of a device tensor, that its device was admitted.
  bool supports(const wire::Request& request) const;
  DeviceChoice& device_choice() noexcept { return device_choice_; }

  // Null: this rank is in no set of this id.
  ProcessGroupPtr group(ProcessSetId id) const { return groups_.find(id); }
  // See Engine; both block, and are collective over all ranks.
  Result<ProcessSetId> add_process_set(const std::vector<int>& ranks);
  Status remove_process_set(ProcessSetId id);
  // The global ranks of a set, ascending; null if there is none of this id.
  using RanksPtr = std::shared_ptr<const std::vector<int>>;
  RanksPtr ranks_of(ProcessSetId id) const;

  const Place& place() const noexcept { return options_.place; }
  const std::string& backend_name() const noexcept { return backend_name_; }
  const std::shared_ptr<Lane>& lane() const noexcept { return world_->lane(); }
  Timeline& timeline() noexcept { return observer_.timeline(); }
  MetricsPage metrics() const;
  TransferCost reduction_cost() const { return observer_.reduction_cost(); }
  Status dump_flight_recorder(const std::string& path) const;

 private:
  Status start_all();
  bool stop_writer();
  Status check_knobs() const;
  void map_status_page();
  Status start_observing();
  std::unique_ptr<Autotune> make_autotune();
  void write_metrics() const;
  Status meet_ranks();
  Status greet(const BackendSearch& search);
  Status connect_data_plane(const BackendSearch& search);
  // Connects this rank with the others of the group; a failure ends the epoch.
  Status connect(const ProcessGroupPtr& group, Clock::time_point deadline);
  Status all_are_ready(const Status& connected, Clock::time_point deadline);
  bool run(ProcessGroup& group, Job& job);
  // engine_core_device.cc
  // All but the backend and the exchange.
  DataPlane::Options plane_options(const ProcessGroup& group) const;
  // After a job: its works end, or the engine hears of the failure (false).
  bool conclude(const Job& job, const Status& status, const std::string& backend);
  // This rank's end of a communicator on the devices, not connected yet.
  Status open_device(ProcessGroup& group);
  Status connect_device(ProcessGroup& group);
  DataPlane::Exchange device_exchange(ProcessGroup& group);
  // Collective over the set, by its first operation on a device: connects it, or finds with all
  // others why that cannot be, which is no failure.
  Status meet_on_device(ProcessGroup& group);
  bool launch(ProcessGroup& group, Job& job);
  // Of what fails on all its ranks alike: the engine goes on. True, as launch() returns.
  bool end_alone(const Job& job, const Status& why);
  // Everyone's bytes by rank of the group; Timeout at `deadline`. Those of one tag meet in the
  // order in which each rank makes them: one thread for each tag.
  Result<std::vector<wire::Bytes>> exchange(const ProcessGroup& group, const std::string& tag,
                                            std::span<const std::byte> bytes,
                                            Clock::time_point deadline);
  // Submits an operation that lives on the control channel and waits for it.
  Result<std::shared_ptr<WorkState>> negotiate(wire::Request request);
  Status timed_out(const std::string& what) const;

  const EngineOptions options_;
  const std::string host_;
  base::Logger logger_;
  base::StatusPage status_page_;  // the launcher's; touched by the coordinator thread
  Observer observer_;
  Clock::time_point start_deadline_;

  uint64_t epoch_ = 0;
  std::array<std::byte, 32> object_key_{};
  std::function<std::string()> missing_ranks_;
  std::shared_ptr<void> meeting_;  // until all have greeted each other
  ProcessGroups groups_;
  ProcessGroupPtr world_;  // the group of all ranks
  std::unique_ptr<CoordinatorThread> coordinator_;
  std::vector<Hello> hellos_;
  std::string backend_name_;
  const khorus_backend* backend_ = nullptr;
  DeviceChoice device_choice_;

  std::atomic<uint64_t> next_ticket_{1};
  std::atomic<uint64_t> submitted_{0};
  uint64_t finished_at_start_ = 0;               // Khorus' own exchanges
  std::atomic<uint64_t> finished_elsewhere_{0};  // by groups that are gone
  std::mutex set_change_mutex_;                  // one change of the process sets at a time
  mutable std::mutex sets_mutex_;
  std::map<ProcessSetId, RanksPtr> sets_;
  std::map<std::pair<ProcessSetId, std::string>, uint64_t> exchanges_;  // so far, by set and tag
  std::mutex unnamed_mutex_;
  std::unordered_map<std::string, uint64_t> unnamed_;

  std::mutex stop_mutex_;
  std::optional<bool> stopped_;
};

}  // namespace khorus::runtime
