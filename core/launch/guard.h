// Guard: the process between the launcher and its ranks, which leaves nothing behind.
//
// The launcher forks it before any thread exists. It is in a session of its own, out of reach of
// the terminal, is a child subreaper, and is the parent of every rank: whatever a rank leaves
// behind becomes its child (descendants.h). When the launcher ends in any way, their socket closes,
// and the guard kills every descendant. When the guard itself is killed the ranks die with it
// (PR_SET_PDEATHSIG), and the rest falls to the launcher, which is a subreaper too.
//
// Messages are one struct each over a SOCK_SEQPACKET pair.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "core/launch/descriptor.h"
#include "core/launch/job_plan.h"
#include "khorus/status.h"

namespace khorus::launch {

// From the launcher to the guard.
struct GuardCommand {
  enum class Kind : int32_t {
    kStart,    // start all ranks; `store` is KHORUS_STORE
    kRestart,  // start `rank` again, which has ended
    kSignal,   // send `signal` to the process group of every rank that runs
    kFinish,   // end what finished ranks left behind, answer kFinished, and end
  };
  Kind kind = Kind::kStart;
  int32_t signal = 0;
  int32_t rank = -1;
  std::array<char, 256> store{};
  // With kStart, of a job on several hosts: KHORUS_NETWORK_INTERFACE; empty: as it is.
  std::array<char, 64> network_interface{};
};

// From the guard to the launcher.
struct GuardEvent {
  enum class Kind : int32_t {
    kStarted,       // `rank` runs as `pid`
    kNotForked,     // `rank` could not be started; `status` is errno
    kEnded,         // `rank` ended; `status` as of waitpid(2)
    kCarrierEnded,  // the ssh to other host number `rank` ended; `status` as of waitpid(2)
    kFinished,      // nothing is left; `status` counts processes that could not be ended
  };
  Kind kind = Kind::kStarted;
  int32_t rank = -1;
  int32_t pid = 0;
  int32_t status = 0;
};

// The launcher's side.
struct Guard {
  pid_t pid = -1;
  Descriptor socket;
};

// Forks the guard, which takes `job->plan`; the launcher keeps the rest. REQUIRES: SIGCHLD is
// blocked, and this process has one thread. `title` is the memory of this process's own argv: the
// guard renames itself there, so that a `pkill -f` that is meant for the program does not hit it.
Result<Guard> fork_guard(PreparedJob* job, std::span<char> title);

}  // namespace khorus::launch
