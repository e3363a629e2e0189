// Descendants: finding and ending every process that came from this one, whatever it did to get
// away: double forks, sessions and process groups of its own.
//
// The caller is a child subreaper (prctl(2)): whoever loses its parent below us becomes our child.
// Hence "no child is left" proves "no descendant is left". /proc only says whom to signal; a
// process is signalled through a pidfd that was checked to be the one that was seen.
//
// Thread rule: one thread of a process, with SIGCHLD blocked in all of them; it reaps every child.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <vector>

namespace khorus::launch {

struct Process {
  pid_t pid = 0;
  pid_t parent = 0;
  char state = '?';              // as in proc(5): Z is a zombie
  unsigned long long start = 0;  // tells two users of one pid apart
};

// Every living or unreaped process below `ancestor`, found in /proc.
std::vector<Process> descendants_of(pid_t ancestor);

// Sends `signal` to `process` if it is still the same one.
void signal_process(const Process& process, int signal);

// Reaps every child that has ended, telling `ended` about each (may be empty). False: no child is
// left at all.
bool reap_children(const std::function<void(pid_t pid, int wait_status)>& ended);

// Sends `signal` to all descendants and reaps until none is left or the time is over. SIGKILL is
// sent again to whoever appears meanwhile. True: none is left.
bool end_descendants(int signal, std::chrono::steady_clock::time_point deadline);

}  // namespace khorus::launch
