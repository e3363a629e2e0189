// See timeline_file.h.
#include "core/runtime/timeline_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace khorus::runtime {
namespace {

constexpr std::string_view kClosing = "\n]\n";
constexpr size_t kPageBytes = 4096;

// 0, or errno.
int write_all(int fd, std::string_view text, off_t at) {
  while (!text.empty()) {
    const ssize_t written = pwrite(fd, text.data(), text.size(), at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    text.remove_prefix(static_cast<size_t>(written));
    at += written;
  }
  return 0;
}

}  // namespace

TimelineFile::~TimelineFile() {
  if (fd_ >= 0) ::close(fd_);
}

Status TimelineFile::open(const std::string& path) {
  path_ = path;
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const int error = fd_ < 0 ? errno : write_all(fd_, "[\n]\n", 0);
  if (error != 0) {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
    return Status(StatusCode::kUnavailable, "the timeline \"" + path +
                                                "\" cannot be written: " + std::strerror(error) +
                                                "; give a path in a folder that exists");
  }
  error_ = 0;
  end_ = 1;
  empty_ = true;
  elements_.clear();
  return Status();
}

void TimelineFile::add(std::string_view json) {
  const auto begin = static_cast<size_t>(end_);
  const size_t end = begin + elements_.size() + 2 + json.size() + kClosing.size();
  if (!elements_.empty() && begin / kPageBytes != (end - 1) / kPageBytes) flush();
  elements_ += std::exchange(empty_, false) ? "\n" : ",\n";
  elements_ += json;
}

void TimelineFile::flush() {
  if (elements_.empty() || error_ != 0) return;
  const size_t bytes = elements_.size();
  elements_ += kClosing;
  error_ = write_all(fd_, elements_, end_);
  end_ += static_cast<off_t>(bytes);
  elements_.clear();
}

Status TimelineFile::close() {
  flush();
  if (::close(std::exchange(fd_, -1)) != 0 && error_ == 0) error_ = errno;
  if (error_ == 0) return Status();
  return Status(StatusCode::kUnavailable,
                "the timeline \"" + path_ + "\" is incomplete: " + std::strerror(error_));
}

}  // namespace khorus::runtime
