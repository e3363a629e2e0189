// Khorus: collective communication for data-parallel training. Start here.
//
//   khorus::init();
//   std::vector<float> x(1024, float(khorus::rank()));
//   khorus::allreduce("x", x.data(), x.size(), khorus::ReduceOp::kSum);   // in place
//   khorus::shutdown();
//
// The convenience API: free functions over one default engine per process. They throw khorus::Error
// where the Engine returns a Status. Everything else (asynchronous, grouped, several engines) is in
// engine.h; libtorch users include khorus/torch.h.
//
// Thread rule: any thread, except that init() and shutdown() must not run at the same time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "khorus/engine.h"
#include "khorus/export.h"
#include "khorus/options.h"
#include "khorus/status.h"
#include "khorus/types.h"
#include "khorus/version.h"
#include "khorus/work.h"

namespace khorus {

// Reads the knobs from the environment, finds this process's place and starts the default engine.
// The place is that of the KHORUS_* variables as khorusrun sets them, else that of torchrun, mpirun
// (Open MPI, MPICH) or an srun step, else a single process. Without a store (KHORUS_STORE) the
// ranks must be on one host, and meet there by themselves. A second init() without a shutdown()
// between does nothing.
KHORUS_API void init();
// The same with everything given.
KHORUS_API void init(const EngineOptions& options);
// Ends the default engine (see Engine::shutdown). init() may follow.
KHORUS_API void shutdown();
KHORUS_API bool is_initialized() noexcept;

// Names of the backend plugins that are installed, usable here or not (khorusrun --check-build says
// why not): "gloo", "local", "mpi", "nccl", "shm".
KHORUS_API std::vector<std::string> installed_backends();
// What carries the data of one of them, in its own words, also where it is not usable: "NCCL
// (libnccl.so.2, built with the headers of 2.28.3)". Empty if it is not installed, or is broken.
// Looks for no GPU and loads nothing but the plugins.
KHORUS_API std::string backend_version(const std::string& name);

// The default engine. Throws Error(Unavailable) before init().
KHORUS_API Engine& engine();

KHORUS_API int rank();
KHORUS_API int size();
KHORUS_API int local_rank();
KHORUS_API int local_size();
KHORUS_API int cross_rank();
KHORUS_API int cross_size();

// Blocking, in place, on `count` elements. T is one of the C++ types that have a DataType: uint8_t,
// int8_t, int16_t, int32_t, int64_t, float, double, bool.
// What they mean is said in engine.h. Tensors are flat here: their first dimension is all there is.
template <class T>
void allreduce(const std::string& name, T* data, size_t count, ReduceOp op = ReduceOp::kAverage,
               ProcessSetId process_set = kGlobalProcessSet);
template <class T>
void broadcast(const std::string& name, T* data, size_t count, int root_rank,
               ProcessSetId process_set = kGlobalProcessSet);
KHORUS_API void barrier(ProcessSetId process_set = kGlobalProcessSet);

// The ranks' elements one after the other, this rank's part of the reduction, what the ranks have
// sent to this one.
template <class T>
std::vector<T> allgather(const std::string& name, const T* data, size_t count,
                         ProcessSetId process_set = kGlobalProcessSet);
template <class T>
std::vector<T> reducescatter(const std::string& name, const T* data, size_t count,
                             ReduceOp op = ReduceOp::kAverage,
                             ProcessSetId process_set = kGlobalProcessSet);
template <class T>
std::vector<T> alltoall(const std::string& name, const T* data, size_t count,
                        const std::vector<int64_t>& splits = {},
                        ProcessSetId process_set = kGlobalProcessSet);

template <class T>
void send(const T* data, size_t count, int peer, int tag = 0,
          ProcessSetId process_set = kGlobalProcessSet);
template <class T>
void recv(T* data, size_t count, int peer, int tag = 0,
          ProcessSetId process_set = kGlobalProcessSet);

// Returns the last rank that joined.
KHORUS_API int join();
KHORUS_API ProcessSetId add_process_set(const std::vector<int>& ranks);
KHORUS_API void remove_process_set(ProcessSetId id);

// The DataType of a C++ type.
template <class T>
constexpr DataType data_type_of();

// ---- implementation of the templates ----

template <class T>
constexpr DataType data_type_of() {
  if constexpr (std::is_same_v<T, uint8_t>)
    return DataType::kUint8;
  else if constexpr (std::is_same_v<T, int8_t>)
    return DataType::kInt8;
  else if constexpr (std::is_same_v<T, int16_t>)
    return DataType::kInt16;
  else if constexpr (std::is_same_v<T, int32_t>)
    return DataType::kInt32;
  else if constexpr (std::is_same_v<T, int64_t>)
    return DataType::kInt64;
  else if constexpr (std::is_same_v<T, float>)
    return DataType::kFloat32;
  else if constexpr (std::is_same_v<T, double>)
    return DataType::kFloat64;
  else if constexpr (std::is_same_v<T, bool>)
    return DataType::kBool;
  else
    static_assert(sizeof(T) == 0, "this C++ type has no khorus::DataType");
}

namespace internal {
template <class T>
TensorView flat_view(T* data, size_t count) {
  TensorView view;
  view.data = data;
  view.dtype = data_type_of<T>();
  view.shape = {static_cast<int64_t>(count)};
  return view;
}
}  // namespace internal

namespace internal {
// An input: it is read only.
template <class T>
TensorView flat_view(const T* data, size_t count) {
  return flat_view(const_cast<T*>(data), count);
}
template <class T>
std::vector<T> vector_of(const WorkPtr& work) {
  throw_if_error(work->wait());
  const TensorView result = work->result();
  const T* const first = static_cast<const T*>(result.data);
  return std::vector<T>(first, first + element_count(result.shape));
}
inline AllreduceOptions reduction(ReduceOp op, ProcessSetId process_set) {
  AllreduceOptions options;
  options.op = op;
  options.process_set = process_set;
  return options;
}
}  // namespace internal

template <class T>
void allreduce(const std::string& name, T* data, size_t count, ReduceOp op,
               ProcessSetId process_set) {
  const TensorView view = internal::flat_view(data, count);
  const AllreduceOptions options = internal::reduction(op, process_set);
  throw_if_error(engine().allreduce_async(name, view, view, options)->wait());
}

template <class T>
void broadcast(const std::string& name, T* data, size_t count, int root_rank,
               ProcessSetId process_set) {
  const TensorView view = internal::flat_view(data, count);
  throw_if_error(engine().broadcast_async(name, view, view, root_rank, process_set)->wait());
}

template <class T>
std::vector<T> allgather(const std::string& name, const T* data, size_t count,
                         ProcessSetId process_set) {
  const TensorView view = internal::flat_view(data, count);
  return internal::vector_of<T>(engine().allgather_async(name, view, process_set));
}

template <class T>
std::vector<T> reducescatter(const std::string& name, const T* data, size_t count, ReduceOp op,
                             ProcessSetId process_set) {
  const TensorView view = internal::flat_view(data, count);
  const AllreduceOptions options = internal::reduction(op, process_set);
  return internal::vector_of<T>(engine().reducescatter_async(name, view, options));
}

template <class T>
std::vector<T> alltoall(const std::string& name, const T* data, size_t count,
                        const std::vector<int64_t>& splits, ProcessSetId process_set) {
  const TensorView view = internal::flat_view(data, count);
  return internal::vector_of<T>(engine().alltoall_async(name, view, splits, process_set));
}

template <class T>
void send(const T* data, size_t count, int peer, int tag, ProcessSetId process_set) {
  const TensorView view = internal::flat_view(data, count);
  throw_if_error(engine().send_async(view, peer, tag, process_set)->wait());
}

template <class T>
void recv(T* data, size_t count, int peer, int tag, ProcessSetId process_set) {
  const TensorView view = internal::flat_view(data, count);
  throw_if_error(engine().recv_async(view, peer, tag, process_set)->wait());
}

}  // namespace khorus
