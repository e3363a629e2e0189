// Host meeting: how the ranks of one host find each other without a launcher that serves a store.
//
// Rank 0 hands out the address of a store that it serves, and the job key, over an abstract Unix
// socket whose name is made of user, job and generation. Each side asks the kernel who the other
// is (SO_PEERCRED) and talks to its own user only: that is the whole authentication, hence "one
// host and one user". An abstract name lives in a network namespace and leaves nothing behind.
//
// Nobody polls for a name that is not there yet. Every rank r first listens on a name of its own (a
// doorbell), then calls rank 0; rank 0 first listens, then rings at every doorbell. Whoever comes
// second finds the other, so one of the two calls always gets through.
//
// All get their answer when all have come, so that a rank that is missing is named everywhere; or
// when one has left that had come, because its process has ended.
//
// Thread rule: each call blocks its thread until its time is over.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "core/net/job_key.h"
#include "khorus/status.h"

namespace khorus::net {

struct HostMeetingOptions {
  std::string job_id;       // not empty; equal on all ranks
  uint64_t generation = 1;  // counts the meetings of a job
  int rank = 0;
  int size = 1;
  std::chrono::milliseconds timeout{30'000};
};

struct HostInvitation {
  std::string store;  // "127.0.0.1:41234"
  JobKey key;         // not set: the ranks have it already
};

// Rank 0: waits for all others and gives each the invitation. Timeout names the ranks that did not
// come; PeerLost the one that has left; Unavailable names who has the meeting's name.
Status invite(const HostMeetingOptions& options, const HostInvitation& invitation);

// Every other rank. Timeout; PermissionDenied: somebody else's process has the name; or rank 0's
// own error.
Result<HostInvitation> attend(const HostMeetingOptions& options);

// A job id for processes that one parent started directly, when nothing else names the job.
std::string job_id_from_parent();

}  // namespace khorus::net
