// Timeline: what this rank did when, as a Chrome trace (chrome://tracing, Perfetto), with Horovod's
// event names: one row per tensor; NEGOTIATE_ALLREDUCE from submit to agreement, then ALLREDUCE
// with QUEUE, MEMCPY_IN_FUSION_BUFFER, GLOO_ALLREDUCE, MEMCPY_OUT_FUSION_BUFFER inside. On a GPU
// NCCL_ALLREDUCE begins with the launch, and ON_DEVICE inside it is what the device took. Format:
// the JSON array of the Trace Event Format; it is closed after every write (timeline_file.h). It
// opens with whose clock it is of and ends negotiations with the operation's number, which is the
// same on every rank: with both, `khorus trace merge` aligns the files of several hosts. On rank 0,
// which hears of all, NEGOTIATE_ carries a tick named by the number of each rank as it arrives.
//
// Events go through a bounded queue to the trace writer's own thread; what does not fit is counted
// and dropped, never waited for.
//
// Thread rule: any thread. begin(), end() and mark() cost one atomic load while nothing is
// recorded.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/runtime/timeline_file.h"
#include "khorus/status.h"

namespace khorus::runtime {

class Timeline {
 public:
  // `host`: for people who read traces of several.
  explicit Timeline(int rank, std::string host = "") : rank_(rank), host_(std::move(host)) {}
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  // Rank 0 writes `path`, rank r writes `path`.r. Unavailable: the file cannot be made, or a
  // timeline is being recorded.
  Status start(const std::string& path, bool mark_cycles);
  // Returns when the file is complete. Unavailable: there is none, or it could not be written.
  Status stop();

  bool enabled() const noexcept { return enabled_.load(std::memory_order_relaxed); }
  bool cycles_marked() const noexcept { return mark_cycles_.load(std::memory_order_relaxed); }

  // `arguments`: members of a JSON object, without the braces.
  void begin(const std::string& tensor, std::string_view event, std::string_view arguments = {});
  void end(const std::string& tensor, std::string_view arguments = {});
  // What is known when it is over, inside of what is open now. In the file it stands where it
  // became known.
  void span(const std::string& tensor, std::string_view event,
            std::chrono::steady_clock::time_point begin, std::chrono::steady_clock::time_point end);
  // A moment in the life of a tensor.
  void tick(const std::string& tensor, std::string_view event);
  // A moment in the life of the whole rank.
  void mark(std::string_view event);

 private:
  using Clock = std::chrono::steady_clock;
  enum class Phase : uint8_t { kBegin, kEnd, kSpan, kTick, kMark };
  struct Record {
    Phase phase;
    int64_t time_us;
    std::string tensor;
    std::string event;
    std::string arguments;
    Clock::time_point span_begin = {};
    Clock::time_point span_end = {};
  };
  // Of the file; touched by start(), then by the writer, then by stop().
  struct Row {
    int id = 0;
    int depth = 0;  // of open events
  };

  void add(Record record);
  void writer_loop();
  void write(const Record& record);
  Row& row_of(const std::string& tensor);
  std::string about_the_clock() const;
  void finish_file();

  const int rank_;
  const std::string host_;
  std::atomic<bool> enabled_{false};
  std::atomic<bool> mark_cycles_{false};

  std::mutex control_mutex_;  // start() and stop(), one at a time
  std::thread writer_;

  std::mutex mutex_;  // guards the queue
  std::condition_variable wakeup_;
  std::vector<Record> queue_;
  uint64_t dropped_ = 0;
  bool stopping_ = false;
  Clock::time_point origin_;

  TimelineFile file_;
  std::string path_;
  int64_t last_time_us_ = 0;
  std::unordered_map<std::string, Row> rows_;
};

}  // namespace khorus::runtime
