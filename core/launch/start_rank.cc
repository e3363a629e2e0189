// Between fork and exec of one rank; see start_rank.h. The guard has one thread, so the child may
// use everything.
#include "core/launch/start_rank.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

namespace khorus::launch {
namespace {

// Shell scripts use descriptors below 10 at will, and bash keeps 10 and up to 63 for itself.
constexpr int kFirstDescriptor = 100;

std::vector<char*> pointers(std::vector<std::string>* texts) {
  std::vector<char*> result;
  for (std::string& text : *texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

[[noreturn]] void give_up(const std::string& what) {
  const int error = errno;
  const std::string message = "khorusrun: " + what + ": " + std::strerror(error) + "\n";
  const ssize_t written = ::write(STDERR_FILENO, message.data(), message.size());
  static_cast<void>(written);
  ::_exit(error == ENOENT ? 127 : 126);
}

// A stream that the rank inherits from the launcher is left as it is.
void set_stream(const Descriptor& from, int to) {
  if (from && ::dup2(from.get(), to) < 0) give_up("dup2");
}

// A copy that survives exec, through any number of wrapper scripts.
std::string inheritable(const Descriptor& descriptor) {
  const int copy = ::fcntl(descriptor.get(), F_DUPFD, kFirstDescriptor);
  if (copy < 0) give_up("duplicating a descriptor");
  return std::to_string(copy);
}

[[noreturn]] void become_rank(const JobPlan& plan, const RankPlan& rank, pid_t guard) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != guard) ::_exit(1);  // it died before the line above
  set_stream(rank.standard_input, STDIN_FILENO);
  set_stream(rank.standard_output, STDOUT_FILENO);
  set_stream(rank.standard_error, STDERR_FILENO);
  std::vector<std::string> environment = rank.environment;
  if (rank.key) environment.push_back("KHORUS_KEY_FD=" + inheritable(rank.key));
  if (rank.status_page) {
    environment.push_back("KHORUS_STATUS_FD=" + inheritable(rank.status_page));
  }
  const bool own = !rank.program.empty();
  const std::string& program = own ? rank.program : plan.program;
  std::vector<std::string> arguments = own ? rank.arguments : plan.arguments;
  ::setrlimit(RLIMIT_NOFILE, &plan.open_files);
  ::sigprocmask(SIG_SETMASK, &plan.signal_mask, nullptr);
  ::execve(program.c_str(), pointers(&arguments).data(), pointers(&environment).data());
  give_up("cannot run \"" + program + "\"");
}

}  // namespace

pid_t start_rank(const JobPlan& plan, const RankPlan& rank) {
  const pid_t guard = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) become_rank(plan, rank, guard);
  if (pid > 0) ::setpgid(pid, pid);  // as the child does: whoever is first
  return pid;
}

}  // namespace khorus::launch
