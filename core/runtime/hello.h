// Hello: what every rank tells all others first, and what follows from it: who they are, whether
// their settings fit together, which backend carries the data.
//
// Values and pure functions, but for own_identity().
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/runtime/host_identity.h"
#include "core/wire/message.h"
#include "khorus/options.h"
#include "khorus/status.h"

namespace khorus::runtime {

struct Hello {
  std::string host;
  int64_t pid = 0;
  std::string process;  // equal exactly for the ranks of one process
  HostIdentity machine;
  // Settings that must be equal on all ranks.
  int64_t cache_capacity = 0;
  std::string requested_backend;
  struct Backend {
    std::string name;
    bool in_process_only = false;
    bool one_host_only = false;
    std::string problem;  // empty: usable
  };
  std::vector<Backend> backends;  // best first
  uint64_t nonce = 0;             // rank 0's makes names of this job unique
};

wire::Bytes encode(const Hello& hello);
Result<Hello> decode_hello(const wire::Bytes& bytes);

// Fills in host, pid, process, machine, nonce of this process.
Hello own_identity();

// InvalidArgument names the knob, the ranks and their values.
Status check_settings(const std::vector<Hello>& hellos);

struct BackendChoice {
  std::string name;
  std::string reason;
  std::string warning;  // what the job should say once; empty when the data stays on one host
};
// The same on every rank. Unavailable names the rank that cannot, and why.
Result<BackendChoice> choose_backend(const std::vector<Hello>& hellos);

}  // namespace khorus::runtime
