// See backend_loader.h; dlopen(3).
#include "core/runtime/backend_loader.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "core/runtime/static_backends.h"
#include "khorus/khorus.h"
#include "khorus/options.h"
#include "khorus/types.h"

namespace khorus::runtime {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "libkhorus_backend_";
constexpr std::string_view kSuffix = ".so";
// Best first; backends that are not named here come last, by name.
constexpr std::array<std::string_view, 5> kPreference = {"local", "nccl", "shm", "gloo", "mpi"};

// Sanitizer run-times refuse RTLD_DEEPBIND.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kOpenFlags = RTLD_NOW | RTLD_LOCAL;
#else
constexpr int kOpenFlags = RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND;
#endif

Status status_of(int32_t code, const khorus_error& error) {
  if (code == 0) return Status();
  return Status(static_cast<StatusCode>(code), error.message);
}

bool carries_cpu_tensors(const khorus_backend& backend) {
  return backend.supports(static_cast<uint8_t>(OpKind::kBroadcast),
                          static_cast<uint8_t>(DataType::kUint8), 0,
                          static_cast<uint8_t>(DeviceKind::kCpu)) != 0;
}

// What an entry returns, checked.
FoundBackend examine(const khorus_backend* backend, std::string name, std::string origin,
                     GpuBackends gpu) {
  FoundBackend found{std::move(name), std::move(origin), nullptr, Status()};
  if (backend == nullptr || backend->abi_version != KHORUS_BACKEND_ABI ||
      backend->struct_size < sizeof(khorus_backend)) {
    const std::string version =
        backend == nullptr ? "nothing" : "version " + std::to_string(backend->abi_version);
    found.problem = Status(
        StatusCode::kUnavailable,
        found.origin + " was built for another Khorus: its backend contract is " + version +
            ", this library's is version " + std::to_string(KHORUS_BACKEND_ABI) + "; rebuild it");
    return found;
  }
  found.backend = backend;
  found.name = backend->name;
  if (gpu == GpuBackends::kLeaveAlone && !carries_cpu_tensors(*backend)) {
    found.problem = Status(StatusCode::kUnavailable, "it carries no tensors of the CPU");
    return found;
  }
  khorus_error error{};
  error.rank = -1;
  found.problem = status_of(backend->probe(&error), error);
  return found;
}

FoundBackend open_plugin(const fs::path& path, std::string name, GpuBackends gpu) {
  FoundBackend found{name, path.string(), nullptr, Status()};
  void* const library = dlopen(path.c_str(), kOpenFlags);
  if (library == nullptr) {
    const char* reason = dlerror();
    found.problem =
        Status(StatusCode::kUnavailable,
               path.string() + " cannot be loaded: " + (reason == nullptr ? "" : reason));
    return found;
  }
  const auto entry =
      reinterpret_cast<khorus_backend_entry_fn>(dlsym(library, KHORUS_BACKEND_ENTRY_SYMBOL));
  if (entry == nullptr) {
    found.problem = Status(StatusCode::kUnavailable,
                           path.string() + " does not export " KHORUS_BACKEND_ENTRY_SYMBOL);
    return found;
  }
  return examine(entry(), std::move(name), path.string(), gpu);
}

void add_once(std::vector<std::string>* directories, const fs::path& directory) {
  std::error_code ignored;
  const fs::path canonical = fs::weakly_canonical(directory, ignored);
  const std::string text = canonical.empty() ? directory.string() : canonical.string();
  if (std::find(directories->begin(), directories->end(), text) == directories->end()) {
    directories->push_back(text);
  }
}

std::vector<std::string> plugin_directories(const std::string& extra_directory) {
  std::vector<std::string> directories;
  if (!extra_directory.empty()) add_once(&directories, extra_directory);
  std::vector<fs::path> homes;
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&find_backends), &info) != 0 &&
      info.dli_fname != nullptr) {
    homes.push_back(fs::path(info.dli_fname).parent_path());
  }
  std::error_code ignored;
  homes.push_back(fs::read_symlink("/proc/self/exe", ignored).parent_path());
  for (const fs::path& home : homes) {
    add_once(&directories, home / "khorus");
    add_once(&directories, home / ".." / "lib" / "khorus");
  }
  return directories;
}

void scan(const std::string& directory, GpuBackends gpu, std::vector<FoundBackend>* found) {
  std::error_code error;
  for (const fs::directory_entry& file : fs::directory_iterator(directory, error)) {
    const std::string name = file.path().filename().string();
    if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) continue;
    std::string backend =
        name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
    const bool known = std::any_of(found->begin(), found->end(), [&](const FoundBackend& other) {
      return other.name == backend;
    });
    if (!known) found->push_back(open_plugin(file.path(), std::move(backend), gpu));
  }
}

size_t preference(const FoundBackend& found) {
  return static_cast<size_t>(std::find(kPreference.begin(), kPreference.end(), found.name) -
                             kPreference.begin());
}

}  // namespace

BackendSearch find_backends(const std::string& extra_directory, GpuBackends gpu) {
  BackendSearch search;
  for (const khorus_backend_entry_fn entry : static_backends()) {
    search.backends.push_back(examine(entry(), "linked in", "linked in", gpu));
  }
  search.directories = plugin_directories(extra_directory);
  for (const std::string& directory : search.directories) scan(directory, gpu, &search.backends);
  std::sort(search.backends.begin(), search.backends.end(),
            [](const FoundBackend& a, const FoundBackend& b) {
              return std::pair(preference(a), a.name) < std::pair(preference(b), b.name);
            });
  return search;
}

}  // namespace khorus::runtime

namespace khorus {

namespace {

std::vector<runtime::FoundBackend> find_installed() {
  const Result<Config> config = Config::from_environment();
  return runtime::find_backends(config.ok() ? config->backend_path : "").backends;
}

}  // namespace

std::vector<std::string> installed_backends() {
  std::vector<std::string> names;
  for (const auto& found : find_installed()) names.push_back(found.name);
  return names;
}

std::string backend_version(const std::string& name) {
  for (const auto& found : find_installed()) {
    if (found.name == name && found.backend != nullptr) return found.backend->version;
  }
  return "";
}

}  // namespace khorus
