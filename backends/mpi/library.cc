// See library.h; dlopen(3).
#include "backends/mpi/library.h"

#include <dlfcn.h>

#include <array>

namespace khorus::backends::mpi {
namespace {

constexpr const char* kName = "libmpi.so.40";
// What MPICH, Intel MPI and MVAPICH call theirs.
constexpr const char* kOtherName = "libmpi.so.12";

// Looks symbols up and remembers the first that is not there.
class Symbols {
 public:
  explicit Symbols(void* library) : library_(library) {}

  template <class Function>
  void function(Function& slot, const char* name) {
    slot = reinterpret_cast<Function>(find(name));
  }
  template <class Handle>
  void object(Handle& slot, const char* name) {
    slot = static_cast<Handle>(find(name));
  }
  const std::string& missing() const { return missing_; }

 private:
  void* find(const char* name) {
    void* const symbol = ::dlsym(library_, name);
    if (symbol == nullptr && missing_.empty()) missing_ = name;
    return symbol;
  }
  void* const library_;
  std::string missing_;
};

void look_up(Symbols& symbols, Library* library) {
  symbols.function(library->initialized, "MPI_Initialized");
  symbols.function(library->finalized, "MPI_Finalized");
  symbols.function(library->init_thread, "MPI_Init_thread");
  symbols.function(library->query_thread, "MPI_Query_thread");
  symbols.function(library->finalize, "MPI_Finalize");
  symbols.function(library->comm_rank, "MPI_Comm_rank");
  symbols.function(library->comm_size, "MPI_Comm_size");
  symbols.function(library->comm_group, "MPI_Comm_group");
  symbols.function(library->comm_get_attr, "MPI_Comm_get_attr");
  symbols.function(library->comm_create_group, "MPI_Comm_create_group");
  symbols.function(library->comm_set_errhandler, "MPI_Comm_set_errhandler");
  symbols.function(library->group_incl, "MPI_Group_incl");
  symbols.function(library->group_free, "MPI_Group_free");
  symbols.function(library->isend, "MPI_Isend");
  symbols.function(library->irecv, "MPI_Irecv");
  symbols.function(library->testsome, "MPI_Testsome");
  symbols.function(library->cancel, "MPI_Cancel");
  symbols.function(library->get_count, "MPI_Get_count");
  symbols.function(library->error_string, "MPI_Error_string");
  symbols.object(library->world, "ompi_mpi_comm_world");
  symbols.object(library->no_comm, "ompi_mpi_comm_null");
  symbols.object(library->no_group, "ompi_mpi_group_null");
  symbols.object(library->no_request, "ompi_request_null");
  symbols.object(library->byte, "ompi_mpi_byte");
  symbols.object(library->errors_return, "ompi_mpi_errors_return");
}

Result<const Library*> open_library() {
  if (::dlopen(kOtherName, RTLD_NOW | RTLD_NOLOAD) != nullptr) {
    return Status(StatusCode::kUnavailable,
                  std::string("this process has another MPI loaded (") + kOtherName +
                      ", of the MPICH family), and two cannot live in one process; the mpi backend "
                      "works with Open MPI only");
  }
  void* const handle = ::dlopen(kName, RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) {
    const char* const why = ::dlerror();
    return Status(StatusCode::kUnavailable, std::string("Open MPI's library cannot be opened (") +
                                                (why == nullptr ? kName : why) +
                                                "); install libopenmpi3");
  }
  static Library library;
  Symbols symbols(handle);
  look_up(symbols, &library);
  if (symbols.missing().empty()) return &library;
  return Status(StatusCode::kUnavailable, std::string(kName) + " has no " + symbols.missing() +
                                              ": it is not the library of Open MPI 3.0 to 5.0");
}

}  // namespace

Result<const Library*> Library::load() {
  static const Result<const Library*> loaded = open_library();
  return loaded;
}

bool Library::is_loaded() { return ::dlopen(kName, RTLD_NOW | RTLD_NOLOAD) != nullptr; }

std::string Library::describe(int error_code) const {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (error_string(error_code, text.data(), &length) != MPI_SUCCESS) {
    return "MPI error " + std::to_string(error_code);
  }
  return std::string(text.data(), static_cast<size_t>(length));
}

}  // namespace khorus::backends::mpi
