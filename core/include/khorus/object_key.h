// The key under which front ends sign what must travel as a program's own objects (Python's
// pickles), so that nothing is unpickled that a rank of this job has not made.
//
// Thread rule: any thread.
#pragma once

#include <array>
#include <cstddef>

#include "khorus/engine.h"
#include "khorus/export.h"

namespace khorus {

// Derived from the job key with HMAC-SHA256, a label, the epoch and a nonce of rank 0: equal on all
// ranks, known to nobody else, another after each init(), and of no use for a handshake. For a
// single rank and in an in-process world, where nothing leaves the process, there is no job key in
// it.
KHORUS_API std::array<std::byte, 32> object_key(const Engine& engine);

}  // namespace khorus
