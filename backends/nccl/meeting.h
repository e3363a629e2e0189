// How the ranks of a group find out that they can work together: each tells the others what it is,
// and all come to the same conclusion, or to the same sentence about why not.
//
// Thread rule: the thread that connects.
#pragma once

#include <nccl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "backends/nccl/driver.h"
#include "backends/nccl/library.h"
#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::backends::nccl {

// The group, copied.
struct Party {
  explicit Party(const khorus_group& group);
  int rank;
  int size;
  int device;
  std::vector<int32_t> global_ranks;
  std::vector<std::string> hosts;
  const khorus_host* host;

  // "rank 5 (gpu-02)"
  std::string name(size_t r) const;
};

// What came of the meeting.
struct Agreement {
  ncclUniqueId id{};
  std::string twins;          // two ranks that share one GPU, if there are: NCCL may refuse that
  bool have_kernels = false;  // all ranks: so all make the same calls of NCCL's
};
// `has_kernels`: whether this rank does.
Result<Agreement> meet(const Party& party, const Library& library, const Driver& driver,
                       bool has_kernels);

}  // namespace khorus::backends::nccl
