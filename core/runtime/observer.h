// Observer: what an engine tells of itself: timeline, metrics and flight recorder, fed by one call
// per stage in the life of an operation.
//
//   submitted -> agreed -> started -> finished     what runs on the data plane
//   submitted -> over                              barriers, errors
//
// The stages cost a clock reading, a few relaxed additions and one uncontended lock; nothing here
// blocks on a file. A failure of the engine posts a dump to the background writer.
//
// Thread rule: each method says which thread calls it; the rest from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "core/base/log.h"
#include "core/protocol/node.h"
#include "core/runtime/background_writer.h"
#include "core/runtime/flight_recorder.h"
#include "core/runtime/lane.h"
#include "core/runtime/metrics.h"
#include "core/runtime/tensor_queue.h"
#include "core/runtime/timeline.h"
#include "khorus/engine.h"

namespace khorus::runtime {

class Observer {
 public:
  struct Options {
    Place place;
    std::string host;
    const Config* config = nullptr;
    const base::Logger* logger = nullptr;
    const std::function<std::string()>* interpreter_stacks = nullptr;
  };
  explicit Observer(const Options& options);

  Timeline& timeline() noexcept { return timeline_; }
  BackgroundWriter& writer() noexcept { return writer_; }

  // Known only when the engine has started.
  void set_epoch(uint64_t epoch);
  void set_backend(const std::string& name);
  void set_group(ProcessSetId id, const std::vector<int>& ranks) { recorder_.set_group(id, ranks); }

  // The submitting thread: before the batch is queued, and when the queue has refused it after all.
  void submitted(const Batch& batch);
  void refused(const Batch& batch, const Status& status);

  // The coordinator thread.
  void arrived(const std::vector<protocol::Arrival>& arrivals);
  void agreed(const Job& job, uint64_t first_position);
  void over(const WorkState& work, const Status& status, uint64_t position = 0);
  // Others wait for what this rank has not submitted: its stacks go to the log, if they are wanted.
  void waited_for();
  // The engine has failed; the first reason counts. Before its works are failed: whoever they wake
  // may end the process.
  void failed(const Status& status);
  // Also before there is a coordinator thread.
  void tell_launcher(const Status& status);

  // Who runs the job.
  void started(const Job& job);
  void finished(const Job& job, const Status& status);

  // Everything counted, as a page. `stats` and what follows it are the engine's.
  struct EngineState {
    EngineStats stats;
    protocol::NodeStats node;
    int64_t fusion_threshold_bytes = 0;
    int64_t flush_window_us = 0;
    bool healthy = true;
  };
  MetricsPage page(const EngineState& state) const;
  TransferCost reduction_cost() const { return metrics_.reductions.cost(); }

  std::string flight_record(const std::string& reason) const;

 private:
  FlightRecorder::Header header() const;
  void add_operations(MetricsPage* page, const std::string& backend) const;
  static void add_control(MetricsPage* page, const EngineState& state);

  const Options options_;
  Timeline timeline_;
  Metrics metrics_;
  FlightRecorder recorder_;
  BackgroundWriter writer_;
  std::atomic<bool> dumping_stacks_{false};
  mutable std::mutex mutex_;  // guards the two below
  uint64_t epoch_ = 0;
  std::string backend_;
};

}  // namespace khorus::runtime
