/* The contract between the engine and a data-plane backend, in C.
 *
 * A backend is a plugin: a shared object `libkhorus_backend_NAME.so` that exports
 * `khorus_backend_entry` and nothing else. What crosses this boundary is plain data: no C++ type,
 * no exception, and no memory that one side allocates and the other frees. Structs start with their
 * size; a side reads no field beyond the size the other side gave. backends/README.md explains each
 * rule with its reason, and tests/conformance checks it.
 *
 * Thread rule: `open`, `connect`, `run` and `disconnect` of one communicator are called by one
 * thread at a time (an executor, or a user's thread that runs the collective itself); different
 * communicators may be used at once. `abort` may be called from any thread at any time, also while
 * `run` or `connect` blocks, and makes them return an error within a second.
 */
#ifndef KHORUS_BACKEND_H_
#define KHORUS_BACKEND_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KHORUS_BACKEND_ABI 7

/* An error, filled in by the side that fails. `code` is a khorus::StatusCode (0: ok); `rank` is the
 * global rank it is about, or -1; `message` ends with a NUL. */
typedef struct khorus_error {
  int32_t code;
  int32_t rank;
  char message[512];
} khorus_error;

/* Since ABI 5. One tensor of an operation that several travel in. */
typedef struct khorus_piece {
  const void* input; /* may equal output */
  void* output;
  uint64_t count;    /* elements, not 0 */
  void* stream;      /* as in khorus_op */
  void* ready_event; /* as in khorus_op */
} khorus_piece;

/* khorus::OpKind, khorus::DataType, khorus::ReduceOp, khorus::DeviceKind by value. */
typedef struct khorus_op {
  uint32_t struct_size;
  uint8_t kind; /* kAllreduce, kAllgather, kBroadcast, kAlltoall, kReducescatter, kSendRecv */
  uint8_t dtype;
  /* allreduce, reducescatter: kSum, kMin, kMax, kProduct. allreduce of device backends that support
   * it, of floats: kAdasum; on the CPU the engine makes it of kSendRecv. Never kAverage (the engine
   * scales). */
  uint8_t reduce_op;
  uint8_t device;
  int32_t root;   /* broadcast: the root's rank in the group */
  uint64_t epoch; /* of the membership; equal on all ranks of one operation */
  /* Increases from one operation of this communicator to the next; equal on all ranks that take
   * part. Has gaps where other ranks of the group did something without this one (kSendRecv). */
  uint64_t sequence;
  const void* input; /* may equal output in allreduce and broadcast */
  void* output;
  /* Elements. allreduce, broadcast: of input and output; allgather: of input; reducescatter and
   * alltoall: of input, the sum of `counts`; sendrecv: of input, may be 0. */
  uint64_t count;
  /* Elements by group rank (size entries), else NULL. allgather: what each rank contributes.
   * reducescatter: what each rank gets; input is these blocks in rank order, output this rank's
   * reduced one. alltoall: what goes to each rank; input is these blocks in rank order. */
  const uint64_t* counts;
  /* The framework's stream (an opaque cudaStream_t, NULL is the default stream) and an event on it
   * or on another one; NULL on the CPU. See khorus_backend.finish for what they order. */
  void* stream;
  /* Since ABI 2. */
  const uint64_t*
      recv_counts;     /* alltoall: what comes from each rank; output is these in rank order */
  uint64_t recv_count; /* sendrecv: elements of output, may be 0 */
  /* sendrecv: the other rank in the group, never this one. Both send `input` to each other at the
   * same time; only these two ranks take part. input and output do not overlap. */
  int32_t peer;
  /* Since ABI 3. 0 and 1: nothing is scaled. allreduce, of a backend that `scales`: every reduced
   * element is multiplied by this, as a second step with its own rounding. allreduce and
   * reducescatter, of device backends: every rank's contribution is, before it is reduced. */
  double scale;
  /* Since ABI 4, of device backends. The operation touches no memory before this event (an opaque
   * cudaEvent_t, recorded before `run`) has come; NULL: before what is in `stream` now is done. */
  void* ready_event;
  /* Since ABI 5. allreduce and broadcast of device backends: the operation is on these pieces, one
   * after the other, `count` elements together, and `input`, `output`, `stream` and `ready_event`
   * are NULL; else 0 and NULL. Ranks agree on `count`, and neither on the pieces nor on what of
   * them lies side by side. */
  const khorus_piece* pieces;
  uint64_t piece_count;
  /* Since ABI 6. allreduce and reducescatter of device backends: every reduced element is
   * multiplied by `scale_after`, then, if an integer, divided by `divisor`, truncated toward zero;
   * 0 and 1: it is not. core/base/reduce.h has the arithmetic of this and, but for sums of floats,
   * `scale`. */
  double scale_after;
  int32_t divisor;
  int32_t timed; /* device backends: 1 if khorus_backend.times will be asked, else 0 */
} khorus_op;

/* Memory that a backend lends: see khorus_backend.allocate. */
typedef struct khorus_memory {
  uint32_t struct_size;
  void* data;                   /* aligned to 64 bytes, zeroed */
  void* owner;                  /* the argument of release */
  void (*release)(void* owner); /* of a device: when the host has seen it done with the memory */
} khorus_memory;

/* What the engine lends to a backend while a communicator lives. */
typedef struct khorus_host {
  uint32_t struct_size;
  void* engine; /* the first argument of every function below */
  /* All-to-all of a few bytes (at most 65536) over the authenticated control plane. Collective over
   * the group: every rank calls it with the same tag. Blocks; calls receive(context, r, ...) once
   * for every rank r of the group, in order, before it returns. Returns 0, or a code with `error`
   * filled in (then the group is broken: return the error from `connect` or `run`). */
  int32_t (*exchange)(void* engine, const char* tag, const void* bytes, size_t size,
                      void (*receive)(void* context, int32_t rank, const void* bytes, size_t size),
                      void* context, khorus_error* error);
  /* level: khorus::LogLevel. */
  void (*log)(void* engine, int32_t level, const char* message);
} khorus_host;

typedef struct khorus_group {
  uint32_t struct_size;
  int32_t rank; /* in the group */
  int32_t size;
  const int32_t* global_ranks; /* size entries, ascending */
  const char* const* hosts;    /* size entries: the host name of each rank */
  const char* id;              /* unique for this communicator in this job and epoch */
  uint64_t epoch;
  const char* network_interface; /* "" : choose; loopback when all hosts are equal */
  uint32_t timeout_ms;           /* bound of one blocking wait on a silent peer */
  const khorus_host* host;       /* valid until disconnect returns */
  /* Since ABI 4. Device backends: the ordinal of this rank's device in this process; else -1. */
  int32_t device;
} khorus_group;

typedef struct khorus_comm khorus_comm; /* the backend's own */

typedef struct khorus_backend {
  uint32_t struct_size;
  uint32_t abi_version; /* KHORUS_BACKEND_ABI */
  const char* name;
  const char* version; /* of what carries the data, for --check-build */

  /* Whether this backend can run here at all. Returns 0, or a code with the reason in `error`.
   * Cheap; called before any connect. */
  int32_t (*probe)(khorus_error* error);
  /* Whether an operation with these attributes can be run (1) or not (0). */
  int32_t (*supports)(uint8_t kind, uint8_t dtype, uint8_t reduce_op, uint8_t device);
  /* Whether all ranks of the group must be in one process (`local`). */
  int32_t in_process_only;

  /* Makes a communicator that is not connected yet. Local and quick: no blocking, no traffic.
   * Copies what it needs of `group` (but `group->host` stays valid until disconnect). On failure
   * *comm is NULL and nothing is left behind. */
  int32_t (*open)(const khorus_group* group, khorus_comm** comm, khorus_error* error);
  /* Collective: meets the other ranks of the group, through host->exchange. Blocks. */
  int32_t (*connect)(khorus_comm* comm, khorus_error* error);
  /* Collective: the same operations in the same order on all ranks of the group. Blocks until
   * `output` is complete on this rank; a backend that has `finish` puts the operation on its device
   * and returns. After an error the communicator accepts only `abort` and `disconnect`, and output
   * is unspecified. */
  int32_t (*run)(khorus_comm* comm, const khorus_op* op, khorus_error* error);
  /* Makes every blocked and later `connect` and `run` fail with kAborted and this reason.
   * Idempotent. */
  void (*abort)(khorus_comm* comm, const char* reason);
  /* Frees everything. Not collective. No other call of this comm may be under way. */
  void (*disconnect)(khorus_comm* comm);

  /* Since ABI 2. Whether all ranks of the group must share memory (`shm`): one machine, one network
   * namespace. */
  int32_t one_host_only;

  /* Since ABI 3. Whether `run` does the scaling of khorus_op.scale (1), or the engine (0). */
  int32_t scales;
  /* Optional (NULL: none). Memory in which this communicator's operations need fewer copies than
   * elsewhere; ranks may differ in what they keep there. After connect, from any thread, also while
   * `run` works. The memory is the caller's until `release`, once, from any thread; it may outlive
   * the communicator. Returns 0, or a code with the reason: then ordinary memory will do. */
  int32_t (*allocate)(khorus_comm* comm, uint64_t bytes, khorus_memory* memory,
                      khorus_error* error);

  /* Since ABI 4. Optional (NULL: none). What carries the data, where it was found and what it
   * lacks, in one line. May load it; for --check-build. The text lives as long as the plugin. */
  const char* (*describe)(void);
  /* Device backends; else both NULL. Any thread, also while `run` works, but not during
   * `disconnect`. The operations of a communicator are done in the order of `run`.
   * order: what is put into `stream` from now on begins after the operation with this sequence (and
   * so every earlier one) is complete. Does not wait; so a training step never waits on the host.
   * finish: blocks until that operation is complete on the device, or has failed; only after it is
   * the memory the caller's again, also where `order` has failed. It sees failures and silence
   * beyond the timeout, so somebody has to be in it while operations are under way. */
  int32_t (*order)(khorus_comm* comm, uint64_t sequence, void* stream, khorus_error* error);
  int32_t (*finish)(khorus_comm* comm, uint64_t sequence, khorus_error* error);
  /* Since ABI 6. Optional (NULL: none). When the operation with this sequence was on the device, in
   * nanoseconds of CLOCK_MONOTONIC: called after its `finish` has returned 0 and before the next
   * `finish`. Returns 1, or 0 if it was not `timed` or the device does not know. */
  int32_t (*times)(khorus_comm* comm, uint64_t sequence, int64_t* begin_ns, int64_t* end_ns);
  /* Since ABI 7. Device backends; else NULL. How many devices this process sees, for a rank that
   * takes part without having a tensor on one. Called after `probe` has returned 0. */
  int32_t (*devices)(void);
} khorus_backend;

/* The one exported symbol. The struct lives as long as the plugin is loaded. */
typedef const khorus_backend* (*khorus_backend_entry_fn)(void);
#define KHORUS_BACKEND_ENTRY_SYMBOL "khorus_backend_entry"

#ifdef __cplusplus
}
#endif

#endif /* KHORUS_BACKEND_H_ */
