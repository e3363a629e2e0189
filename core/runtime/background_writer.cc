// See background_writer.h.
#include "core/runtime/background_writer.h"

#include <pthread.h>

#include <string>
#include <system_error>
#include <utility>

#include "core/base/assert.h"

namespace khorus::runtime {

BackgroundWriter::~BackgroundWriter() {
  KHORUS_ASSERT(!thread_.joinable(), "a background writer was destroyed before stop()");
}

void BackgroundWriter::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    tasks_.push_back(std::move(task));
    start_thread();
  }
  wakeup_.notify_one();
}

void BackgroundWriter::repeat(Clock::duration interval, Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    repeated_ = std::move(task);
    interval_ = interval;
    start_thread();
  }
  wakeup_.notify_one();
}

void BackgroundWriter::start_thread() {
  if (thread_.joinable()) return;
  try {
    thread_ = std::thread([this] { loop(); });
    pthread_setname_np(thread_.native_handle(), "khorus-files");
  } catch (const std::system_error& error) {
    tasks_.clear();
    logger_->warning(std::string("no thread for metrics and dumps: ") + error.what());
  }
}

bool BackgroundWriter::stop(Clock::time_point deadline) {
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    if (!thread_.joinable()) return true;
    wakeup_.notify_one();
    if (!ended_changed_.wait_until(lock, deadline, [this] { return ended_; })) return false;
  }
  thread_.join();
  return true;
}

void BackgroundWriter::loop() {
  std::unique_lock lock(mutex_);
  Clock::time_point due = Clock::now() + interval_;
  bool repeating = false;
  while (true) {
    const bool wanted = repeated_ != nullptr;
    if (wanted && !std::exchange(repeating, wanted)) due = Clock::now() + interval_;
    const auto has_work = [&] {
      return stopping_ || !tasks_.empty() || (repeated_ != nullptr && !repeating);
    };
    if (repeating) {
      wakeup_.wait_until(lock, due, has_work);
    } else {
      wakeup_.wait(lock, has_work);
    }
    if (!tasks_.empty()) {
      const Task task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    } else if (repeating && (stopping_ || Clock::now() >= due)) {
      const Task task = repeated_;
      if (stopping_) {
        repeated_ = nullptr;
        repeating = false;
      }
      lock.unlock();
      task();
      lock.lock();
      due = Clock::now() + interval_;
    } else if (stopping_) {
      break;
    }
  }
  ended_ = true;
  ended_changed_.notify_all();
}

}  // namespace khorus::runtime
