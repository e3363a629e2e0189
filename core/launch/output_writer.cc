// The writing thread; see output_writer.h.
#include "core/launch/output_writer.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace khorus::launch {
namespace {

// Writes all of it, also to a descriptor that somebody made non-blocking. False: nobody reads.
bool write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd room{descriptor, POLLOUT, 0};
      ::poll(&room, 1, -1);  // as unbounded as a blocking write; the launcher does not wait for it
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace

OutputWriter::OutputWriter(int descriptor, std::function<void()> on_room)
    : descriptor_(descriptor), on_room_(std::move(on_room)), thread_([this] { run(); }) {
  ::pthread_setname_np(thread_.native_handle(), "khorus-output");
}

OutputWriter::~OutputWriter() { finish(); }

void OutputWriter::write(std::string piece) {
  const std::lock_guard lock(mutex_);
  queued_bytes_ += piece.size();
  was_full_ = was_full_ || queued_bytes_ >= kFullBytes;
  queue_.push_back(std::move(piece));
  work_.notify_one();
}

bool OutputWriter::full() const {
  const std::lock_guard lock(mutex_);
  return was_full_;
}

void OutputWriter::finish() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    finishing_ = true;
    work_.notify_one();
  }
  thread_.join();
}

void OutputWriter::run() {
  bool reader_gone = false;
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return finishing_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::string pieces;  // many lines in one system call
    while (!queue_.empty() && pieces.size() < (size_t{64} << 10)) {
      pieces += queue_.front();
      queue_.pop_front();
    }
    lock.unlock();
    if (!reader_gone) reader_gone = !write_all(descriptor_, pieces);
    lock.lock();
    queued_bytes_ -= pieces.size();
    if (was_full_ && queued_bytes_ < kFullBytes / 2) {
      was_full_ = false;
      lock.unlock();
      on_room_();
      lock.lock();
    }
  }
}

}  // namespace khorus::launch
