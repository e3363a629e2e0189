// The double of NCCL, libnccl.so.2: the functions that the nccl backend uses, over the double of
// the driver. The prototypes are those of nccl.h.
//
// As the real one it is strict about order: after a call on a non-blocking communicator has
// returned ncclInProgress nothing is in the stream yet, and nothing but ncclCommGetAsyncError,
// ncclCommAbort and ncclGetLastError may be called until that says ncclSuccess. It says so at the
// second question, so that who does not ask is found out. When a peer is lost, the operation stays
// on the device until the communicator is aborted.
//
// KHORUS_DOUBLE_NCCL_VERSION: what ncclGetVersion says (that of nccl.h).
// KHORUS_DOUBLE_ONE_RANK_PER_GPU: two ranks on one GPU are refused, as NCCL did before 2.30.
#include <cuda.h>
#include <nccl.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/gpu/double/machine.h"
#include "tests/gpu/double/mesh.h"
#include "tests/gpu/double/operations.h"

using namespace khorus::gpu_double;

namespace {

// What streams and the handle share.
struct Shared {
  Shared(const std::string& meeting, const Mesh::Seat& seat)
      : rank(seat.rank), size(seat.size), mesh(meeting, seat) {}
  const int rank;
  const int size;
  Mesh mesh;
  std::atomic<ncclResult_t> state{ncclInProgress};
  std::atomic<int> under_way{0};  // operations in streams
};

struct Launch {
  StreamPtr stream;
  std::vector<Operation> operations;  // one collective, or a group's sends and receives
};

}  // namespace

struct ncclComm {
  std::shared_ptr<Shared> shared;
  bool blocking = true;
  bool stopped = false;
  bool finalizing = false;
  StreamPtr stream;             // the only one it was used on
  std::vector<Launch> pending;  // not in their streams yet
  int questions = 0;            // since they are pending
};

namespace {

// Never destroyed: streams may still work while the process ends.
struct Comms {
  std::mutex mutex;
  std::set<ncclComm_t> alive;
  std::map<std::pair<ncclComm_t, int>, double> factors;  // of premultiplied sums
};
Comms& comms() {
  static Comms* const all = new Comms;
  return *all;
}

struct Call {
  ncclComm_t comm;
  CUstream stream;
  Operation operation;
};
thread_local int t_depth = 0;
thread_local std::vector<Call> t_calls;

// REQUIRES: the lock. Ends the process if the communicator is gone.
ncclComm& checked(ncclComm_t comm, const char* function) {
  if (comms().alive.count(comm) == 0) {
    violation(std::string(function) + " on a communicator that does not exist");
  }
  return *comm;
}
// REQUIRES: the lock. And it may be called now.
ncclComm& ready(ncclComm_t comm, const char* function) {
  ncclComm& one = checked(comm, function);
  if (one.shared->state == ncclInProgress) {
    violation(std::string(function) + " on a communicator that is still in progress");
  }
  return one;
}

// REQUIRES: the lock.
void forget(ncclComm_t comm) {
  comms().alive.erase(comm);
  std::erase_if(comms().factors, [&](const auto& factor) { return factor.first.first == comm; });
}

// On the stream's thread.
void run_on_stream(const std::shared_ptr<Shared>& shared,
                   const std::vector<Operation>& operations) {
  const Mesh::Outcome outcome = run(shared->mesh, operations, shared->rank, shared->size);
  if (outcome == Mesh::Outcome::kPeerGone) {
    shared->state = ncclRemoteError;
    shared->mesh.wait_for_stop();
  }
  --shared->under_way;
}

void launch(ncclComm& comm, const Launch& what) {
  std::vector<Access> accesses;
  for (const Operation& operation : what.operations) {
    for (const Access& access : accesses_of(operation, comm.shared->rank, comm.shared->size)) {
      expect_device_memory(name_of(operation), access.address, access.bytes);
      accesses.push_back(access);
    }
  }
  ++comm.shared->under_way;
  enqueue(
      what.stream, name_of(what.operations.front()), accesses,
      [shared = comm.shared, operations = what.operations] { run_on_stream(shared, operations); });
}

// What a group has collected for one communicator. REQUIRES: the lock.
ncclResult_t submit(ncclComm& comm, const std::vector<Call>& calls) {
  std::vector<Launch> launches;
  Launch pairwise;
  for (const Call& call : calls) {
    const StreamPtr stream = stream_of(call.stream);
    if (comm.stream == nullptr) comm.stream = stream;
    if (comm.stream != stream) violation("a communicator is used on two streams");
    const bool is_pairwise =
        call.operation.kind == Kind::kSend || call.operation.kind == Kind::kRecv;
    if (is_pairwise) {
      pairwise.stream = stream;
      pairwise.operations.push_back(call.operation);
    } else {
      launches.push_back({stream, {call.operation}});
    }
  }
  if (!pairwise.operations.empty()) launches.push_back(pairwise);
  if (!comm.blocking) {
    comm.pending = std::move(launches);
    comm.questions = 0;
    comm.shared->state = ncclInProgress;
    return ncclInProgress;
  }
  for (const Launch& one : launches) launch(comm, one);
  return ncclSuccess;
}

ncclResult_t end_group() {
  const std::vector<Call> calls = std::exchange(t_calls, {});
  std::vector<ncclComm_t> order;
  for (const Call& call : calls) {
    if (std::find(order.begin(), order.end(), call.comm) == order.end()) order.push_back(call.comm);
  }
  ncclResult_t result = ncclSuccess;
  const std::scoped_lock lock(comms().mutex);
  for (const ncclComm_t comm : order) {
    std::vector<Call> own;
    std::copy_if(calls.begin(), calls.end(), std::back_inserter(own),
                 [&](const Call& call) { return call.comm == comm; });
    const ncclResult_t one = submit(ready(comm, "a collective"), own);
    if (one != ncclSuccess) result = one;
  }
  return result;
}

ncclResult_t call(ncclComm_t comm, CUstream stream, Operation operation) {
  if (operation.op >= ncclNumOps) {
    const std::scoped_lock lock(comms().mutex);
    const auto made = comms().factors.find({comm, operation.op});
    if (made == comms().factors.end()) violation("a reduction is used that does not exist");
    operation.factor = made->second;
    operation.op = ncclSum;
    operation.is_multiplied = true;
  }
  t_calls.push_back({comm, stream, operation});
  return t_depth > 0 ? ncclSuccess : end_group();
}

void stop(ncclComm& comm) {
  if (!std::exchange(comm.stopped, true)) comm.shared->mesh.stop();
  comm.pending.clear();
}

// Meets the other ranks; on a thread of its own if the caller does not wait.
void initialise(const std::shared_ptr<Shared>& shared) {
  const Mesh::Outcome outcome = shared->mesh.connect();
  switch (outcome) {
    case Mesh::Outcome::kDone:
      shared->state = ncclSuccess;
      break;
    case Mesh::Outcome::kRefused:
      shared->state = ncclInvalidUsage;
      break;
    default:
      shared->state = ncclSystemError;
  }
}

}  // namespace

extern "C" {

#pragma GCC visibility push(default)

ncclResult_t ncclGetVersion(int* version) {
  const char* const text = std::getenv("KHORUS_DOUBLE_NCCL_VERSION");
  *version = text == nullptr ? NCCL_VERSION_CODE : std::atoi(text);
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInvalidUsage:
      return "invalid usage";
    default:
      return "an error of the double";
  }
}
const char* ncclGetLastError(ncclComm_t) { return "as the double sees it"; }

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::memset(id, 0, sizeof(*id));
  const std::string name = serve_meeting();
  std::memcpy(id->internal, name.data(), name.size());
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  CUdevice device = 0;
  if (cuCtxGetDevice(&device) != CUDA_SUCCESS) return ncclUnhandledCudaError;
  auto made = std::make_unique<ncclComm>();
  made->shared = std::make_shared<Shared>(id.internal, Mesh::Seat{rank, size, device});
  made->blocking = config == nullptr || config->blocking != 0;
  *comm = made.release();
  {
    const std::scoped_lock lock(comms().mutex);
    comms().alive.insert(*comm);
  }
  if ((*comm)->blocking) {
    initialise((*comm)->shared);
    return (*comm)->shared->state;
  }
  std::thread(initialise, (*comm)->shared).detach();
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const std::scoped_lock lock(comms().mutex);
  ncclComm& one = checked(comm, "ncclCommGetAsyncError");
  if (!one.pending.empty() && one.questions++ > 0) {
    one.shared->state = ncclSuccess;  // before they can fail
    for (const Launch& launched : std::exchange(one.pending, {})) launch(one, launched);
  }
  ncclResult_t in_progress = ncclInProgress;
  if (one.finalizing && one.shared->under_way == 0) {
    one.shared->state.compare_exchange_strong(in_progress, ncclSuccess);
  }
  *state = one.shared->state;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const std::scoped_lock lock(comms().mutex);
  ncclComm& one = ready(comm, "ncclCommFinalize");
  one.finalizing = true;
  one.shared->state = ncclInProgress;
  return ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const std::scoped_lock lock(comms().mutex);
  ncclComm& one = ready(comm, "ncclCommDestroy");
  if (one.shared->under_way != 0) violation("ncclCommDestroy while operations are under way");
  forget(comm);
  delete &one;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const std::scoped_lock lock(comms().mutex);
  ncclComm& one = checked(comm, "ncclCommAbort");
  stop(one);
  forget(comm);
  delete &one;
  return ncclSuccess;
}
#ifndef KHORUS_DOUBLE_IS_OLD
ncclResult_t ncclCommRevoke(ncclComm_t comm, int) {
  const std::scoped_lock lock(comms().mutex);
  stop(checked(comm, "ncclCommRevoke"));
  return ncclSuccess;
}
#endif

ncclResult_t ncclGroupStart() {
  ++t_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (t_depth == 0) return ncclInvalidUsage;
  return --t_depth > 0 ? ncclSuccess : end_group();
}

ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar, ncclDataType_t type,
                                      ncclScalarResidence_t residence, ncclComm_t comm) {
  if (residence != ncclScalarHostImmediate) violation("the double reads scalars on the host only");
  const std::scoped_lock lock(comms().mutex);
  ready(comm, "ncclRedOpCreatePreMulSum");
  int number = ncclNumOps;
  while (comms().factors.count({comm, number}) > 0) ++number;
  comms().factors[{comm, number}] = value_of(type, scalar);
  *op = static_cast<ncclRedOp_t>(number);
  return ncclSuccess;
}
ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm) {
  const std::scoped_lock lock(comms().mutex);
  ready(comm, "ncclRedOpDestroy");
  if (comms().factors.erase({comm, op}) == 0) {
    violation("a reduction is destroyed that does not exist");
  }
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* input, void* output, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kAllReduce, input, output, count, type, op});
}
ncclResult_t ncclReduce(const void* input, void* output, size_t count, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kReduce, input, output, count, type, op, root});
}
ncclResult_t ncclBroadcast(const void* input, void* output, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kBroadcast, input, output, count, type, ncclSum, root});
}
ncclResult_t ncclAllGather(const void* input, void* output, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kAllGather, input, output, count, type});
}
ncclResult_t ncclReduceScatter(const void* input, void* output, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kReduceScatter, input, output, count, type, op});
}
ncclResult_t ncclSend(const void* input, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return call(comm, stream, {Kind::kSend, input, nullptr, count, type, ncclSum, peer});
}
ncclResult_t ncclRecv(void* output, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return call(comm, stream, {Kind::kRecv, nullptr, output, count, type, ncclSum, peer});
}

#pragma GCC visibility pop

}  // extern "C"
