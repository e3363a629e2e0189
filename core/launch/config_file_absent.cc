// What there is instead of config_file_yaml.cc where yaml-cpp is not installed.
#include "core/launch/config_file.h"

namespace khorus::launch {

Result<std::vector<FileEntry>> read_yaml(const std::string& path) {
  return Status(StatusCode::kUnavailable,
                "--config-file \"" + path +
                    "\" cannot be read: this khorusrun was built without yaml-cpp; install it "
                    "(Debian: libyaml-cpp-dev) and build again, or give the options themselves");
}

}  // namespace khorus::launch
