// The agent: what `khorusrun --agent` is on another host, started there by ssh. It starts the ranks
// of that host with a guard of their own and speaks with the launcher over its standard streams.
//
// The order: the agent says hello; the launcher, when all hosts have, sends the plan with the job
// key; the agent connects to the job's store, starts the ranks, and passes on what they write and
// how they end; the launcher sends signals and, when all is over, the command to finish.
//
// The ranks are killed when the launcher is gone: the end of standard input says so, or that of the
// connection to the store, which the kernel's keep-alives find out when the network is gone too. A
// launcher that is merely stopped keeps both open. When the agent itself is killed, the guard ends
// the ranks (guard.h).
//
// Thread rule: the only thread of its process.
#pragma once

#include <signal.h>
#include <sys/resource.h>

#include <chrono>
#include <span>

namespace khorus::launch {

struct AgentOptions {
  std::chrono::seconds patience{0};  // how long the plan may take to come
  std::span<char> title;             // of fork_guard()
  sigset_t signal_mask{};            // for the ranks
  rlimit open_files{};               // likewise
};

// Returns the exit code. REQUIRES: SIGCHLD is blocked, and this process is a subreaper.
int run_agent(const AgentOptions& options);

}  // namespace khorus::launch
