// See horovod_names.h, and python/khorus/horovod for what is in the folder.
#include "core/launch/horovod_names.h"

#include <filesystem>
#include <system_error>
#include <vector>

namespace khorus::launch {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> packages_beside_this_program() {
  std::error_code ignored;
  const fs::path bin = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  return {bin.parent_path(), bin.parent_path() / "python" / "khorus"};
}

}  // namespace

Result<std::string> horovod_names(const std::string& python_package) {
  std::vector<fs::path> packages{python_package};
  if (python_package.empty()) packages = packages_beside_this_program();
  std::string looked;
  for (const fs::path& package : packages) {
    const fs::path names = package / "horovod" / "names";
    std::error_code ignored;
    if (fs::is_directory(names / "horovod", ignored)) return names.string();
    looked += (looked.empty() ? "" : ", ") + package.string();
  }
  return Status(StatusCode::kUnavailable,
                "--as-horovod: the Python package khorus is not there (looked for it in " + looked +
                    "); use the khorusrun that pip installed with it, or say where it is with "
                    "--python-package");
}

}  // namespace khorus::launch
