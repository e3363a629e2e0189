// Verdict: what became of a job: its exit code, and at most six lines that say why it failed.
//
// Pure functions of what is known about the ranks; any thread.
#pragma once

#include <string>
#include <vector>

#include "core/base/status_page.h"

namespace khorus::launch {

struct RankOutcome {
  std::string host;  // empty: the job's
  std::string lost;  // why its host was given up with it; empty: `wait_status` tells its end
  int pid = 0;
  int wait_status = 0;  // as of waitpid(2)
  int order = 0;        // the how-manieth rank to end this was, from 0
  int stopped_with =
      0;  // the strongest signal that the launcher sent because of a failure; 0: none
  std::string last_words;  // the last line on standard error
  base::StatusPageContents page;
};

struct JobOutcome {
  std::vector<RankOutcome> ranks;
  int first_rank = 0;      // the number of ranks[0]; others have launchers of their own
  int interrupted_by = 0;  // the user's first signal, if it came before any failure
  bool by_mpirun = false;  // `ranks` is mpirun alone, and knows less
  std::string host;
  std::string logs;  // where they are; empty: none were kept
};

struct Verdict {
  int exit_code = 0;
  std::vector<std::string> lines;  // empty after success
};

Verdict judge(const JobOutcome& job);

// 0-255, as a shell has it: 128+n for a signal.
int exit_code_of(int wait_status);
// "exit code 3" or "killed by signal 9 (SIGKILL)".
std::string describe_end(int wait_status);
// {0,1,2,5} -> "ranks 0-2,5"; {3} -> "rank 3".
std::string describe_ranks(const std::vector<int>& ranks);

}  // namespace khorus::launch
