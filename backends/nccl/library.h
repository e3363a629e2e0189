// Library: NCCL, opened at run time.
//
// Two of them cannot live in one process, and torch brings its own. So the plugin links none, and
// takes in this order: the one the process has already; the one beside the libtorch the process
// has; the one in the Python environment that holds this plugin; what the loader finds by name
// (LD_LIBRARY_PATH, the RUNPATH of a build tree, the system's). NCCL's handle of a stream is the
// driver's (driver.h), so no CUDA run-time is needed: NCCL has its own inside.
//
// Thread rule: load() from any thread; the table is constant afterwards and lives for ever.
#pragma once

#include <nccl.h>

#include <string>
#include <vector>

#include "khorus/status.h"

namespace khorus::backends::nccl {

// A place to look for NCCL, and what to call it.
struct Place {
  std::string path;  // a name without a slash: the loader searches
  std::string why;   // "the one beside torch"
};
// Those worth trying in this process, best first, without the one it has already.
std::vector<Place> nccl_places();

struct Library {
  // Unavailable says what was tried, or which functions are missing in which version.
  static Result<const Library*> load();

  // "unhandled system error (run with NCCL_DEBUG=INFO for details); Connection closed by ..."
  std::string describe(ncclResult_t result, ncclComm_t comm) const;
  // "2.30.7"
  std::string version_text() const { return version_text(version); }
  static std::string version_text(int code);

  int version = 0;  // as NCCL_VERSION_CODE
  std::string path;
  std::string why;                  // it was taken
  std::vector<std::string> absent;  // functions that we can do without

  decltype(&::ncclGetVersion) get_version = nullptr;
  decltype(&::ncclGetErrorString) get_error_string = nullptr;
  decltype(&::ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&::ncclCommInitRankConfig) comm_init_rank_config = nullptr;
  decltype(&::ncclCommFinalize) comm_finalize = nullptr;
  decltype(&::ncclCommDestroy) comm_destroy = nullptr;
  decltype(&::ncclCommAbort) comm_abort = nullptr;
  decltype(&::ncclCommGetAsyncError) comm_get_async_error = nullptr;
  decltype(&::ncclRedOpCreatePreMulSum) red_op_create_pre_mul_sum = nullptr;
  decltype(&::ncclRedOpDestroy) red_op_destroy = nullptr;
  decltype(&::ncclAllReduce) all_reduce = nullptr;
  decltype(&::ncclReduce) reduce = nullptr;
  decltype(&::ncclBroadcast) broadcast = nullptr;
  decltype(&::ncclAllGather) all_gather = nullptr;
  decltype(&::ncclReduceScatter) reduce_scatter = nullptr;
  decltype(&::ncclSend) send = nullptr;
  decltype(&::ncclRecv) recv = nullptr;
  decltype(&::ncclGroupStart) group_start = nullptr;
  decltype(&::ncclGroupEnd) group_end = nullptr;
  // Null in older versions.
  decltype(&::ncclGetLastError) get_last_error = nullptr;
  ncclResult_t (*comm_revoke)(ncclComm_t comm, int flags) = nullptr;  // from 2.29 on
};

}  // namespace khorus::backends::nccl
