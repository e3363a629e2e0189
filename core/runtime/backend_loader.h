// Backend loader: finds the data-plane plugins.
//
// First those linked into the program, then libkhorus_backend_NAME.so in the folder the knob
// names, beside libkhorus.so (or the program) in khorus/, and in ../lib/khorus. The first of a name
// is taken. A plugin is opened with RTLD_LOCAL and RTLD_DEEPBIND, so that its Gloo and another one
// in the process (libtorch has one) do not see each other, and is never closed again.
//
// Thread rule: any thread.
#pragma once

#include <string>
#include <vector>

#include "khorus/backend.h"
#include "khorus/status.h"

namespace khorus::runtime {

struct FoundBackend {
  std::string name;
  std::string origin;                       // path, or "linked in"
  const khorus_backend* backend = nullptr;  // null: see problem
  Status problem;                           // ok: it can run here
  bool usable() const noexcept { return backend != nullptr && problem.ok(); }
};

struct BackendSearch {
  std::vector<FoundBackend> backends;    // best first
  std::vector<std::string> directories;  // where plugins were looked for
};

// `extra_directory`: Config::backend_path; may be empty. Probes each; those that carry nothing of
// the CPU only for kProbe: to look for a GPU takes time and starts its driver, which a child that
// is forked afterwards cannot use.
enum class GpuBackends { kLeaveAlone, kProbe };
BackendSearch find_backends(const std::string& extra_directory,
                            GpuBackends gpu = GpuBackends::kLeaveAlone);

}  // namespace khorus::runtime
