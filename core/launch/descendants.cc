// Walking /proc, signalling by pidfd and reaping; see descendants.h.
#include "core/launch/descendants.h"

#include <dirent.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "core/launch/descriptor.h"

namespace khorus::launch {
namespace {

using Clock = std::chrono::steady_clock;

// /proc/PID/stat: "pid (name) state ppid ..."; the name may hold anything, ')' included.
std::optional<Process> read_process(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  Process process;
  process.pid = pid;
  // Field 22 is the start time; state is field 3.
  const int fields = std::sscanf(text.c_str() + name_end + 1,
                                 " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                                 "%*d %*d %*d %llu",
                                 &process.state, &process.parent, &process.start);
  if (fields != 3) return std::nullopt;
  return process;
}

std::vector<Process> all_processes() {
  std::vector<Process> processes;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc"), &::closedir);
  if (!folder) return processes;
  while (const dirent* entry = ::readdir(folder.get())) {
    char* end = nullptr;
    const long pid = std::strtol(entry->d_name, &end, 10);
    if (pid <= 0 || *end != '\0') continue;
    if (const auto process = read_process(static_cast<pid_t>(pid))) processes.push_back(*process);
  }
  return processes;
}

// Waits for a child to change state; false when the time is over.
bool wait_for_child(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline - Clock::now());
  if (left.count() <= 0) return false;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  const timespec timeout{static_cast<time_t>(left.count() / 1'000'000'000),
                         static_cast<long>(left.count() % 1'000'000'000)};
  return ::sigtimedwait(&set, nullptr, &timeout) == SIGCHLD || errno == EINTR;
}

}  // namespace

std::vector<Process> descendants_of(pid_t ancestor) {
  std::multimap<pid_t, Process> children;
  for (const Process& process : all_processes()) children.emplace(process.parent, process);
  std::vector<Process> found;
  std::set<pid_t> seen = {ancestor};  // /proc is not read in one instant: there may be circles
  std::vector<pid_t> open = {ancestor};
  while (!open.empty()) {
    const auto [begin, end] = children.equal_range(open.back());
    open.pop_back();
    for (auto it = begin; it != end; ++it) {
      if (!seen.insert(it->second.pid).second) continue;
      found.push_back(it->second);
      open.push_back(it->second.pid);
    }
  }
  return found;
}

void signal_process(const Process& process, int signal) {
  const Descriptor handle(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
  if (!handle) return;  // gone
  const auto now = read_process(process.pid);
  if (!now || now->start != process.start) return;  // the pid belongs to somebody else now
  ::syscall(SYS_pidfd_send_signal, handle.get(), signal, nullptr, 0);
}

bool reap_children(const std::function<void(pid_t pid, int wait_status)>& ended) {
  while (true) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG | __WALL);
    if (pid == 0) return true;
    if (pid < 0) return errno != ECHILD;
    if (ended) ended(pid, status);
  }
}

bool end_descendants(int signal, Clock::time_point deadline) {
  bool first = true;
  while (reap_children({})) {
    if (first || signal == SIGKILL) {
      for (const Process& process : descendants_of(::getpid())) {
        if (process.state != 'Z') signal_process(process, signal);
      }
      first = false;
    }
    if (!wait_for_child(deadline)) return !reap_children({});
  }
  return true;
}

}  // namespace khorus::launch
