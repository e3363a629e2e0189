// See file.h.
#include "torch_plugin/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "khorus/status.h"

namespace khorus::torch {
namespace {

// The name of a file is on the disk only when its folder is.
bool sync_folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool ok = ::fsync(descriptor) == 0;
  const int error = errno;
  ::close(descriptor);
  errno = error;
  return ok;
}

}  // namespace

NewFile::NewFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".new") {
  file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file_ < 0) fail();
}

NewFile::~NewFile() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(temporary_.c_str());
}

void NewFile::fail() {
  throw Error(Status(StatusCode::kUnavailable, "cannot write " + path_ + ": " +
                                                   std::strerror(errno) + " (" + temporary_ + ")"));
}

void NewFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(file_, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) fail();
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
}

void NewFile::commit() {
  if (::fsync(file_) != 0) fail();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail();
  const int file = file_;
  file_ = -1;  // from here on there is nothing to take back
  if (::close(file) != 0 || !sync_folder_of(path_)) fail();
}

OldFile::OldFile(std::string path) : path_(std::move(path)) {
  file_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (file_ < 0) fail(std::strerror(errno));
  struct stat status {};
  if (::fstat(file_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(file_);
    fail("it is not a regular file");
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

OldFile::~OldFile() { ::close(file_); }

void OldFile::fail(const std::string& why) const {
  throw Error(Status(StatusCode::kUnavailable, "cannot read " + path_ + ": " + why));
}

void OldFile::read(uint64_t offset, void* to, size_t count) const {
  auto* next = static_cast<char*>(to);
  while (count > 0) {
    const ssize_t got = ::pread(file_, next, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(std::strerror(errno));
    if (got == 0) fail("it became shorter while it was read");
    next += got;
    offset += static_cast<uint64_t>(got);
    count -= static_cast<size_t>(got);
  }
}

}  // namespace khorus::torch
