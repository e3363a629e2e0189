// See process_stat.h.
#include "core/runtime/process_stat.h"

#include <unistd.h>

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

std::string process_identity(int64_t pid) {
  const std::optional<ProcessStat> stat = read_process_stat(pid);
  if (!stat.has_value()) return "";
  return own_host_identity().boot + "/" + own_namespace("pid") + "/" +
         std::to_string(pid == 0 ? getpid() : pid) + "/" + stat->start;
}

}  // namespace khorus::runtime
