// The command that starts the agent on another host. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "core/launch/hosts.h"
#include "khorus/status.h"

namespace khorus::launch {

struct SshOptions {
  bool by_srun = false;         // the hosts are of this Slurm job: no ssh
  std::string command = "ssh";  // with arguments, as a shell splits them
  int port = 0;                 // 0: what ssh's configuration says
  std::string identity_file;    // empty: likewise
  std::string user;             // of hosts that name none; empty: likewise
  std::string remote_launcher;  // path of khorusrun there; empty: as here
  int silence_s = 15;           // a host that is silent so long is given up, on both sides

  const char* name() const { return by_srun ? "srun" : "ssh"; }
};

// A connection is asked for a sign of life after a part of the silence, then as often again.
inline constexpr int kSignsOfLife = 3;
inline int sign_interval_s(int silence_s) {
  return silence_s <= kSignsOfLife ? 1 : silence_s / kSignsOfLife;
}

// ssh, or srun, with its arguments, such that `host` runs `remote_launcher --agent
// start_timeout_s`. The job itself, its key included, travels on standard input: neither argv nor a
// shell sees it. InvalidArgument: --ssh-command cannot be split into words.
Result<std::vector<std::string>> ssh_command(const SshOptions& options, const Host& host,
                                             const std::string& remote_launcher,
                                             int start_timeout_s);

// One word for any Unix shell, whatever is in it.
std::string shell_quoted(const std::string& text);

}  // namespace khorus::launch
