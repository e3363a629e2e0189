// See ssh.h; options as of ssh(1), ssh_config(5) and srun(1).
#include "core/launch/ssh.h"

#include "core/launch/mpirun.h"

namespace khorus::launch {

std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

namespace {

// A step of its own beside those that run, with all CPUs of the host. What the agent says is no
// text: without --unbuffered it would wait for the end of a line.
std::vector<std::string> srun_command(const Host& host, const std::string& remote_launcher,
                                      int start_timeout_s) {
  return {"srun",      "--nodes=1",       "--ntasks=1", "--nodelist=" + host.name,
          "--overlap", "--cpu-bind=none", "--mpi=none", "--unbuffered",
          "--quiet",   remote_launcher,   "--agent",    std::to_string(start_timeout_s)};
}

}  // namespace

Result<std::vector<std::string>> ssh_command(const SshOptions& options, const Host& host,
                                             const std::string& remote_launcher,
                                             int start_timeout_s) {
  if (options.by_srun) return srun_command(host, remote_launcher, start_timeout_s);
  Result<std::vector<std::string>> words = split_words("--ssh-command", options.command);
  if (!words.ok()) return words;
  if (words->empty()) {
    return Status(StatusCode::kInvalidArgument, "--ssh-command is empty; leave it out for ssh");
  }
  const auto add = [&](std::initializer_list<std::string> more) {
    words->insert(words->end(), more);
  };
  // Nobody is there to type a password. A connection of our own ends with its ssh.
  add({"-T", "-a", "-x", "-o", "BatchMode=yes", "-o", "ControlMaster=no"});
  add({"-o", "ServerAliveInterval=" + std::to_string(sign_interval_s(options.silence_s)), "-o",
       "ServerAliveCountMax=" + std::to_string(kSignsOfLife)});
  if (options.port > 0) add({"-p", std::to_string(options.port)});
  if (!options.identity_file.empty()) add({"-i", options.identity_file});
  const std::string& user = host.user.empty() ? options.user : host.user;
  if (!user.empty()) add({"-l", user});
  add({host.name,
       "exec " + shell_quoted(remote_launcher) + " --agent " + std::to_string(start_timeout_s)});
  return words;
}

}  // namespace khorus::launch
