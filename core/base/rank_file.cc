// See rank_file.h.
#include "core/base/rank_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace khorus::base {
namespace {

constexpr mode_t kMode = 0644;  // less what the umask takes

Status cannot_write(const std::string& path, int error) {
  return Status(StatusCode::kUnavailable, "\"" + path +
                                              "\" cannot be written: " + std::strerror(error) +
                                              "; give a path in a folder that exists");
}

// 0, or errno.
int write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

int write_new_file(const std::string& path, int flags, std::string_view text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, kMode);
  if (fd < 0) return errno;
  int error = write_all(fd, text);
  if (close(fd) != 0 && error == 0) error = errno;
  return error;
}

}  // namespace

std::string path_of_rank(const std::string& path, int rank) {
  constexpr std::string_view kPlaceholder = "{rank}";
  const size_t at = path.find(kPlaceholder);
  if (at == std::string::npos) return rank == 0 ? path : path + "." + std::to_string(rank);
  return path.substr(0, at) + std::to_string(rank) + path.substr(at + kPlaceholder.size());
}

Status replace_file(const std::string& path, std::string_view text) {
  const std::string beside = path + ".new." + std::to_string(getpid());
  int error = write_new_file(beside, O_TRUNC, text);
  if (error == 0 && rename(beside.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return Status();
  unlink(beside.c_str());
  return cannot_write(path, error);
}

Status create_file(const std::string& path, std::string_view text) {
  const std::string beside = path + ".new." + std::to_string(getpid());
  int error = write_new_file(beside, O_TRUNC, text);
  if (error == 0 && link(beside.c_str(), path.c_str()) != 0) error = errno;
  unlink(beside.c_str());
  return error == 0 || error == EEXIST ? Status() : cannot_write(path, error);
}

Status append_to_file(const std::string& path, std::string_view text) {
  const int error = write_new_file(path, O_APPEND, text);
  return error == 0 ? Status() : cannot_write(path, error);
}

}  // namespace khorus::base
