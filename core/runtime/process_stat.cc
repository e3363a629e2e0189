// See process_stat.h.
#include "core/runtime/process_stat.h"

#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <fstream>

#include "core/runtime/host_identity.h"

namespace khorus::runtime {

std::optional<ProcessStat> read_process_stat(int64_t pid) {
  std::ifstream file("/proc/" + (pid == 0 ? "self" : std::to_string(pid)) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  // "PID (NAME) STATE PPID ...": the name may hold anything, so the last parenthesis counts.
  size_t at = line.rfind(')');
  if (at == std::string::npos || at + 2 >= line.size()) return std::nullopt;
  ProcessStat stat;
  stat.state = line[at + 2];
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = line.find(' ', at + 1);
  if (at == std::string::npos) return std::nullopt;
  stat.start = line.substr(at + 1, line.find(' ', at + 1) - at - 1);
  return stat;
}

namespace {

// What the identities of all processes that this one can see begin with.
std::string identities_here() {
  return own_host_identity().boot + "/" + own_namespace("pid") + "/";
}

}  // namespace

std::string process_identity(int64_t pid) {
  const std::optional<ProcessStat> stat = read_process_stat(pid);
  if (!stat.has_value()) return "";
  return identities_here() + std::to_string(pid == 0 ? getpid() : pid) + "/" + stat->start;
}

ProcessHandle open_process(const std::string& identity) {
  const std::string here = identities_here();
  int pid = 0;
  if (!identity.starts_with(here)) return {};
  const auto parsed =
      std::from_chars(identity.data() + here.size(), identity.data() + identity.size(), pid);
  if (parsed.ec != std::errc() || pid <= 0) return {};
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0 && errno != ESRCH) return {};
  // Asked with the descriptor open: from here on the number is nobody else's.
  if (fd >= 0 && process_identity(pid) == identity) return {fd, pid};
  if (fd >= 0) ::close(fd);
  return {::eventfd(1, EFD_CLOEXEC), pid};  // it has ended
}

}  // namespace khorus::runtime
