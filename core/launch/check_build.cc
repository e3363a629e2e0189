// Looking around in the installation; see check_build.h.
#include "core/launch/check_build.h"

#include <filesystem>

#include "core/runtime/backend_loader.h"
#include "khorus/options.h"
#include "khorus/version.h"

namespace khorus::launch {
namespace {

namespace fs = std::filesystem;

// The front end for libtorch is a library beside ours: ../lib from bin/khorusrun, built or
// installed.
std::string find_torch_plugin() {
  std::error_code error;
  const fs::path home = fs::read_symlink("/proc/self/exe", error).parent_path().parent_path();
  for (const auto& entry : fs::directory_iterator(home / "lib", error)) {
    if (entry.path().filename() == "libkhorus_torch.so") return entry.path().string();
  }
  return "";
}

std::string mark(bool present) { return present ? "  [x] " : "  [ ] "; }

std::string describe(const runtime::FoundBackend& found) {
  std::string text = mark(found.usable()) + found.name;
  if (found.backend) text += " " + std::string(found.backend->version);
  text += " (" + found.origin + ")\n";
  if (!found.problem.ok()) text += "      " + found.problem.message() + "\n";
  if (found.backend != nullptr && found.backend->describe != nullptr) {
    text += "      " + std::string(found.backend->describe()) + "\n";
  }
  return text;
}

}  // namespace

std::string check_build() {
  const Result<Config> config = Config::from_environment();
  const auto search =
      runtime::find_backends(config.ok() ? config->backend_path : "", runtime::GpuBackends::kProbe);
  std::string text = "Khorus " KHORUS_VERSION_STRING ", wire version " +
                     std::to_string(kWireVersion) + "\n\nBackends\n";
  for (const runtime::FoundBackend& found : search.backends) text += describe(found);
  if (search.backends.empty()) {
    text += "  none found in";
    for (const std::string& directory : search.directories) text += " " + directory;
    text += "\n";
  }
  const std::string torch = find_torch_plugin();
  text += "\nFront ends\n" + mark(true) + "C++ (khorus/khorus.h)\n" + mark(!torch.empty()) +
          "libtorch" + (torch.empty() ? std::string() : " (" + torch + ")") + "\n";
  return text;
}

}  // namespace khorus::launch
