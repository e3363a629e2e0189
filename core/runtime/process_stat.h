// What the kernel says of a process of this machine: proc(5)'s stat.
//
// Pure but for /proc; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace khorus::runtime {

struct ProcessStat {
  // 'R', 'S', 'D': it lives. 'T': stopped by a signal. 't': held by a debugger. 'Z': it has ended.
  char state = '?';
  std::string start;  // when it began, in clock ticks since boot: tells a reused pid apart
};

// Nothing: there is no such process, or no /proc. 0: this process.
std::optional<ProcessStat> read_process_stat(int64_t pid);

// Equal exactly for what runs in one process: the machine's boot, the pid namespace, pid and start.
// `pid` as seen from here; 0: this process. Empty: there is no such process.
std::string process_identity(int64_t pid);

// A descriptor, the caller's, that is readable once the process with this identity has ended, and
// its pid as seen from here. -1: it is of another machine or pid namespace, or cannot be watched.
struct ProcessHandle {
  int fd = -1;
  int64_t pid = 0;
};
ProcessHandle open_process(const std::string& identity);

}  // namespace khorus::runtime
