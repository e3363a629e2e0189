// Tensors of a GPU: how their operations and the framework's streams are ordered.
//
// A TensorView with a device of DeviceKind::kCuda goes through the same functions as one of the
// CPU. `data` is memory of that GPU; `ready_event` (a cudaEvent_t recorded before the call), or
// where it is null all that is in `stream` (a cudaStream_t; null is the default stream) when the
// operation begins, comes before it. One rank uses one GPU: its first device tensor says which, or
// its local rank, where others of a process set were first. Input and output are on the same one.
//
// Work::wait() returns when the operation is complete on the GPU, and on_done() is called then.
// wait_on_stream() waits on the GPU instead. What an operation allocates (the results of allgather,
// alltoall, reducescatter) is memory of the GPU, too. Whoever lets go of the last owner of a result
// has seen the GPU done with it, in all streams: the memory is zeroed and lent again.
//
// Thread rule: any thread.
#pragma once

#include <chrono>

#include "khorus/export.h"
#include "khorus/status.h"
#include "khorus/work.h"

namespace khorus {

// What is put into `stream` (an opaque cudaStream_t of the tensor's GPU) from now on begins after
// the operation is complete. Blocks until the ranks have agreed on the operation and it has been
// put on the GPU, not until its end; so it returns before a failure on the way, which Work::wait()
// reports. Returns the Status if the operation is over already. Of CPU tensors: as Work::wait().
KHORUS_API Status wait_on_stream(Work& work, void* stream);

// As wait_on_stream(), but false when it would block for longer than `patience`: for interpreters,
// which must see to signals and may wait again. Then `status` is unchanged. Of CPU tensors: as
// Work::wait_or_signal().
KHORUS_API bool wait_on_stream_for(Work& work, void* stream, std::chrono::milliseconds patience,
                                   Status* status);

}  // namespace khorus
