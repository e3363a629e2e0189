// BackgroundWriter: a small thread for files that nobody waits for: metrics at intervals, the dump
// of the flight recorder, the log of the tuner.
//
// The thread starts with the first task; an engine that writes nothing has none. Tasks run one
// after the other in the order in which they came; they may block on the file system.
//
// Thread rule: any thread; stop() once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "core/base/log.h"

namespace khorus::runtime {

class BackgroundWriter {
 public:
  using Clock = std::chrono::steady_clock;
  using Task = std::function<void()>;

  explicit BackgroundWriter(const base::Logger* logger) : logger_(logger) {}
  // REQUIRES: stop() has returned true.
  ~BackgroundWriter();
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  // Never blocks on a file. After stop(), and when no thread can be made, the task is dropped (in
  // the latter case with a warning).
  void post(Task task);
  // Runs `task` every `interval` and once more at the end. Once.
  void repeat(Clock::duration interval, Task task);

  // Runs what was posted, and the repeated task, then ends the thread. False when `deadline` came
  // first (a file system that does not answer): then this object must be left alone for ever.
  bool stop(Clock::time_point deadline);

 private:
  void start_thread();  // REQUIRES: mutex_ is held
  void loop();

  const base::Logger* const logger_;
  std::mutex mutex_;
  std::condition_variable wakeup_;
  std::condition_variable ended_changed_;
  std::thread thread_;
  std::deque<Task> tasks_;
  Task repeated_;
  Clock::duration interval_{};
  bool stopping_ = false;
  bool ended_ = false;
};

}  // namespace khorus::runtime
