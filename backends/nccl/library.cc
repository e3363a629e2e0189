// See library.h; dlopen(3), dl_iterate_phdr(3).
#include "backends/nccl/library.h"

#include <dlfcn.h>
#include <link.h>

#include <filesystem>
#include <memory>
#include <system_error>

#include "backends/nccl/symbols.h"

namespace khorus::backends::nccl {
namespace {

namespace fs = std::filesystem;

constexpr const char* kName = "libnccl.so.2";
// In the folder that holds Python's packages.
constexpr const char* kWheel = "nvidia/nccl/lib/libnccl.so.2";

// The folders of libtorch's libraries that are in the process.
std::vector<fs::path> torch_folders() {
  std::vector<fs::path> folders;
  const auto look = [](dl_phdr_info* object, size_t, void* context) {
    const fs::path path = object->dlpi_name == nullptr ? "" : object->dlpi_name;
    const std::string name = path.filename().string();
    if (name == "libc10.so" || name.starts_with("libtorch")) {
      static_cast<std::vector<fs::path>*>(context)->push_back(path.parent_path());
    }
    return 0;
  };
  ::dl_iterate_phdr(look, &folders);
  return folders;
}

fs::path own_folder() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&nccl_places), &info) == 0 || !info.dli_fname)
    return {};
  std::error_code ignored;
  return fs::weakly_canonical(info.dli_fname, ignored).parent_path();
}

void add_if_there(std::vector<Place>& places, const fs::path& packages, const std::string& why) {
  std::error_code ignored;
  const fs::path path = packages / kWheel;
  if (!fs::exists(path, ignored)) return;
  for (const Place& known : places) {
    if (known.path == path.string()) return;
  }
  places.push_back({path.string(), why});
}

void look_up(Symbols& symbols, Library* library) {
  symbols.need(library->get_version, "ncclGetVersion");
  symbols.need(library->get_error_string, "ncclGetErrorString");
  symbols.need(library->get_unique_id, "ncclGetUniqueId");
  symbols.need(library->comm_init_rank_config, "ncclCommInitRankConfig");
  symbols.need(library->comm_finalize, "ncclCommFinalize");
  symbols.need(library->comm_destroy, "ncclCommDestroy");
  symbols.need(library->comm_abort, "ncclCommAbort");
  symbols.need(library->comm_get_async_error, "ncclCommGetAsyncError");
  symbols.need(library->red_op_create_pre_mul_sum, "ncclRedOpCreatePreMulSum");
  symbols.need(library->red_op_destroy, "ncclRedOpDestroy");
  symbols.need(library->all_reduce, "ncclAllReduce");
  symbols.need(library->reduce, "ncclReduce");
  symbols.need(library->broadcast, "ncclBroadcast");
  symbols.need(library->all_gather, "ncclAllGather");
  symbols.need(library->reduce_scatter, "ncclReduceScatter");
  symbols.need(library->send, "ncclSend");
  symbols.need(library->recv, "ncclRecv");
  symbols.need(library->group_start, "ncclGroupStart");
  symbols.need(library->group_end, "ncclGroupEnd");
  symbols.want(library->get_last_error, "ncclGetLastError");
  symbols.want(library->comm_revoke, "ncclCommRevoke");
}

// The library with its table, of a handle that was opened.
Result<const Library*> examine(void* handle, const std::string& why) {
  auto library = std::make_unique<Library>();
  Symbols symbols(handle);
  look_up(symbols, library.get());
  library->why = why;
  library->absent = symbols.absent();
  if (library->get_version != nullptr) {
    Dl_info info{};
    if (::dladdr(reinterpret_cast<const void*>(library->get_version), &info) != 0 &&
        info.dli_fname != nullptr) {
      library->path = info.dli_fname;
    }
    if (library->get_version(&library->version) != ncclSuccess) library->version = 0;
  }
  if (symbols.missing().empty()) return library.release();  // lives for ever
  const std::string found = library->get_version == nullptr
                                ? std::string(kName)
                                : "NCCL " + library->version_text() + " (" + library->path + ")";
  return Status(StatusCode::kUnavailable, found + ", " + why + ", has no " +
                                              enumerate(symbols.missing()) +
                                              "; the nccl backend needs NCCL 2.14 or later");
}

Result<const Library*> open_library() {
  void* handle = ::dlopen(kName, RTLD_NOW | RTLD_NOLOAD);
  if (handle != nullptr) return examine(handle, "which this process had already");
  std::string tried;
  for (const Place& place : nccl_places()) {
    handle = ::dlopen(place.path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) return examine(handle, place.why);
    const char* const reason = ::dlerror();
    tried += (tried.empty() ? "" : "; ") + std::string(reason == nullptr ? place.path : reason);
  }
  return Status(StatusCode::kUnavailable,
                "NCCL cannot be opened (" + tried +
                    "); torch's CUDA wheels bring it, or install nvidia-nccl-cu13 or the system's");
}

}  // namespace

std::vector<Place> nccl_places() {
  std::vector<Place> places;
  for (const fs::path& folder : torch_folders()) {
    add_if_there(places, folder.parent_path().parent_path(), "the one beside torch");
  }
  for (fs::path folder = own_folder(); folder.has_relative_path(); folder = folder.parent_path()) {
    add_if_there(places, folder, "the one of this Python environment");
  }
  places.push_back({kName, "the one that the loader finds"});
  return places;
}

Result<const Library*> Library::load() {
  static const Result<const Library*> loaded = open_library();
  return loaded;
}

std::string Library::version_text(int code) {
  // 2.9 and later: two digits for each of minor and patch.
  const int major = code >= 10000 ? code / 10000 : code / 1000;
  const int minor = code >= 10000 ? code / 100 % 100 : code / 100 % 10;
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(code % 100);
}

std::string Library::describe(ncclResult_t result, ncclComm_t comm) const {
  std::string text = get_error_string(result);
  const char* const last = get_last_error == nullptr ? nullptr : get_last_error(comm);
  if (last != nullptr && *last != '\0') text += "; " + std::string(last);
  return text;
}

}  // namespace khorus::backends::nccl
