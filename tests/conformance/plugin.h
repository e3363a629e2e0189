// The backends under test, loaded as the runtime loads them.
//
// Normally each is opened from the build's plugin folder with RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND
// (why: see the traps in backends/README.md). In builds with KHORUS_STATIC_BACKENDS, which the
// sanitizers need, they come from the table of linked backends.
#pragma once

#include <string>
#include <vector>

#include "khorus/backend.h"

namespace khorus::conformance {

// Every backend that was built and can run here: those of the CPU, or with KHORUS_TEST_GPU set
// those of a GPU; without "mpi" where the ranks are threads, without "local" where they are
// processes (process_rank.h). The pointers stay valid until exit.
const std::vector<const khorus_backend*>& built_backends();

// Null if it was not built.
const khorus_backend* find_backend(const std::string& name);

}  // namespace khorus::conformance
