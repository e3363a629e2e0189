// OutputWriter: writes to the launcher's own standard output or error without ever blocking the
// launcher, whoever reads there.
//
// Owns one thread ("khorus-output") that does the blocking writes. Whole pieces keep their order
// and are not mixed. What cannot be written any more (the reader is gone) is dropped: a job does
// not die of its viewer. The descriptor's flags are left alone, it may be shared with other
// programs.
//
// Thread rule: every method from the launcher's thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace khorus::launch {

class OutputWriter {
 public:
  // `on_room` is called on the writer's thread when a queue that was full has room again.
  OutputWriter(int descriptor, std::function<void()> on_room);
  // As finish().
  ~OutputWriter();
  OutputWriter(const OutputWriter&) = delete;
  OutputWriter& operator=(const OutputWriter&) = delete;

  // Queues a piece. Never blocks and never refuses; see full().
  void write(std::string piece);
  // True while so much is queued that its producer should wait for on_room.
  bool full() const;
  // Blocks until everything is written, then ends the thread. No write() may follow.
  void finish();

 private:
  static constexpr size_t kFullBytes = size_t{8} << 20;

  void run();

  const int descriptor_;
  const std::function<void()> on_room_;
  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::deque<std::string> queue_;  // guarded by mutex_, as all below
  size_t queued_bytes_ = 0;
  bool was_full_ = false;
  bool finishing_ = false;
  std::thread thread_;
};

}  // namespace khorus::launch
