// CoordinatorThread: drives one protocol::Node over a control channel.
//
// One loop: sleep in the channel's poll() until a frame, a wake-up or the node's deadline; give the
// node what came in; do what it says: send frames, hand executions to the lane, finish completions.
// It never blocks elsewhere and never runs a collective, so heartbeats, stall reports and aborts go
// on while the data plane is busy. There is no polling cycle; an idle engine only looks after its
// neighbours (peer_watch.h).
//
// When the data plane fails on this rank, the loop first waits `verdict_wait` for the control
// channel to tell why: a peer that died shows on both, and there its rank is known.
//
// Thread rule: public methods from any thread, once start() has returned.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/base/log.h"
#include "core/base/status_page.h"
#include "core/net/control_channel.h"
#include "core/protocol/node.h"
#include "core/runtime/autotune.h"
#include "core/runtime/driver_seat.h"
#include "core/runtime/hello.h"
#include "core/runtime/lane.h"
#include "core/runtime/observer.h"
#include "core/runtime/peer_watch.h"
#include "core/runtime/process_group.h"
#include "core/runtime/tensor_queue.h"
#include "khorus/engine.h"

namespace khorus::runtime {

class CoordinatorThread {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    protocol::NodeOptions node;
    std::unique_ptr<net::ControlChannel> channel;
    ProcessGroups* groups = nullptr;  // holds that of all ranks already
    Observer* observer = nullptr;
    std::unique_ptr<Autotune> autotune;  // at rank 0, if wanted
    const base::Logger* logger = nullptr;
    base::StatusPage* status_page = nullptr;
    std::chrono::milliseconds verdict_wait{300};
    protocol::TimeUs liveness_timeout_us = 0;  // 0: stopped neighbours are not noticed
  };

  explicit CoordinatorThread(Options options);
  // REQUIRES: end() has returned true, or start() was never called.
  ~CoordinatorThread();

  void start();

  // Ok, or why nothing can be submitted any more; then the batch is untouched.
  Status submit(Batch& batch);
  Status health() const { return queue_.health(); }
  // Who the ranks are, by rank.
  void set_peers(const std::vector<Hello>& hellos);
  // By the runner of a lane.
  void execution_finished() noexcept;
  void data_plane_failed(const Status& status);
  // Nothing more is accepted; the job's communication ends on all ranks.
  void leave(const std::string& reason);
  // Whether the loop has ended by `deadline`.
  bool wait_ended(Clock::time_point deadline);
  // Ends the loop at once: whatever is pending is done with `status`.
  void end_now(const Status& status);
  void join();

  // Of the control side; the rest stays 0.
  EngineStats stats() const;
  protocol::NodeStats node_stats() const;
  protocol::FusionSettings fusion() const;

 private:
  // How long the end of a healthy job, or of a broken one, may take to write out its last frames.
  static constexpr std::chrono::milliseconds kGoodbyePatience{2000};
  static constexpr std::chrono::milliseconds kFaultPatience{200};

  void loop();
  // One turn of the loop, by who has the seat; sleeps until `deadline` at most. False once the loop
  // is over.
  bool turn(Clock::time_point deadline);
  bool is_idle() const;
  Clock::time_point next_wakeup();
  void take_inputs();
  void submit_to_node(Batch batch);
  void take_event(const net::ChannelEvent& event);
  void take_finished_executions();
  void check_failure_deadline();
  void look_after_peers();
  // Ticks the node and does what it says, until nothing follows any more.
  void step();
  void carry_out(protocol::Output output);
  void run(std::vector<protocol::Execution> executions);
  void complete(std::vector<protocol::Completion> completions);
  // Of an operation that this rank, having joined, did not submit.
  WorkStatePtr stand_in(const wire::ResponseTensor& tensor, const std::shared_ptr<Lane>& lane);
  static void finish(const std::vector<std::pair<WorkStatePtr, Status>>& over);
  void fault(const Status& status);
  void give_up(const Status& status);
  void fail_everything(const Status& status);
  void refuse_latecomers();
  void close(Clock::duration patience);
  WorkStatePtr take_work(uint64_t ticket);
  void autotune(const std::vector<protocol::Execution>& executions);
  void publish_stats();
  protocol::TimeUs now_us() const;

  const Options options_;
  net::ControlChannel& channel_;
  ProcessGroups& groups_;
  Observer& observer_;
  Timeline& timeline_;
  TensorQueue queue_;
  DriverSeat& seat_;
  std::thread thread_;

  // Runner -> coordinator. The runner counts, then looks whether the coordinator wants to be woken;
  // the coordinator says that it wants to be, then looks at the count.
  std::atomic<uint64_t> finished_executions_{0};
  std::atomic<bool> wants_finish_notice_{false};

  // Touched by who has the seat only.
  protocol::Node node_;
  std::unordered_map<uint64_t, WorkStatePtr> works_;  // by ticket, until agreed
  PeerWatch peer_watch_;
  std::vector<net::ChannelEvent> events_;
  uint64_t given_executions_ = 0;
  uint64_t noted_executions_ = 0;
  bool draining_ = false;  // shutdown was decided; drained() not called yet
  bool faulted_ = false;
  bool leaving_ = false;  // shutdown() was called here: after a fault there is nothing to stay for
  bool ending_ = false;
  std::optional<Status> pending_failure_;
  protocol::TimeUs failure_deadline_us_ = protocol::kNever;

  struct Published {
    std::atomic<uint64_t> messages_sent{0}, bytes_sent{0}, messages_received{0}, bytes_received{0};
    std::atomic<uint64_t> submitted{0}, from_cache{0}, decisions{0}, cached{0}, stall_reports{0};
    std::atomic<int64_t> fusion_threshold_bytes{0}, flush_window_us{0};
  };
  Published published_;

  std::mutex ended_mutex_;
  std::condition_variable ended_changed_;
  bool ended_ = false;
};

}  // namespace khorus::runtime
