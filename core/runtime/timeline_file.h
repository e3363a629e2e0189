// TimelineFile: a JSON array on disk that is closed after every write, so that what a killed
// process leaves is a whole trace up to its last flush.
//
// Every write takes the closing bracket's place with the new lines and a new bracket. One write
// stays within a page of the page cache wherever it can, which is what the kernel copies without
// looking whether the process is being killed.
//
// Thread rule: one thread at a time; it blocks on the file system.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "khorus/status.h"

namespace khorus::runtime {

class TimelineFile {
 public:
  TimelineFile() = default;
  ~TimelineFile();
  TimelineFile(const TimelineFile&) = delete;
  TimelineFile& operator=(const TimelineFile&) = delete;

  // An empty array. Unavailable names the path and the reason. REQUIRES: not open.
  Status open(const std::string& path);
  // One element of the array; on disk after the next flush() or before.
  void add(std::string_view json);
  void flush();
  // Unavailable if anything could not be written.
  Status close();

 private:
  std::string path_;
  int fd_ = -1;
  int error_ = 0;         // the first, as errno
  off_t end_ = 0;         // where the closing bracket's line begins
  bool empty_ = true;     // no element yet
  std::string elements_;  // not written yet
};

}  // namespace khorus::runtime
