// The C edge of a backend, written once: Edge<Communicator> turns a C++ class into the functions of
// khorus_backend (core/include/khorus/backend.h, README.md).
//
// A Communicator provides
//   static Result<std::unique_ptr<Communicator>> open(const khorus_group& group);
//   Status connect();  Status run(const khorus_op& op);  void abort(const std::string& reason);
// and a destructor that disconnects; who also lends memory,
//   Result<khorus_memory> allocate(size_t bytes);
// who works on a device,
//   Status order(uint64_t sequence, void* stream);  Status finish(uint64_t sequence);
// and who can time what is there,
//   bool times(uint64_t sequence, int64_t* begin_ns, int64_t* end_ns);
// Exceptions stop here: they become errors with their what().
// In a backend's Status, lost_rank() is the global rank the error is about, whatever the code.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "khorus/backend.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::backends {

// Fills `error` (which may be null) and returns the code. A message that is too long is cut.
inline int32_t report(const Status& status, khorus_error* error) noexcept {
  if (error != nullptr) {
    error->code = static_cast<int32_t>(status.code());
    error->rank = status.lost_rank();
    const std::string& text = status.message();
    const size_t length = std::min(text.size(), sizeof(error->message) - 1);
    std::memcpy(error->message, text.data(), length);
    error->message[length] = '\0';
  }
  return static_cast<int32_t>(status.code());
}

// What the group's exchange brought, by rank of the group.
using Exchanged = std::vector<std::string>;

// One round of host->exchange: everyone's bytes, or the host's error.
inline Result<Exchanged> exchange(const khorus_host& host, const char* tag,
                                  const std::string& bytes, int group_size) {
  Exchanged all(static_cast<size_t>(group_size));
  // Called by C code: must not throw, so a failure to allocate is kept for later.
  struct Receiver {
    Exchanged& all;
    bool failed = false;
  } receiver{all};
  const auto receive = [](void* context, int32_t rank, const void* data, size_t size) noexcept {
    auto& self = *static_cast<Receiver*>(context);
    try {
      self.all.at(static_cast<size_t>(rank)).assign(static_cast<const char*>(data), size);
    } catch (const std::exception&) {
      self.failed = true;
    }
  };
  khorus_error error{};
  const int32_t code =
      host.exchange(host.engine, tag, bytes.data(), bytes.size(), receive, &receiver, &error);
  if (code != 0) return Status(static_cast<StatusCode>(code), error.message, error.rank);
  if (receiver.failed) {
    return Status(StatusCode::kInternal, std::string("the exchange \"") + tag +
                                             "\" gave a rank outside the group, or memory ran out");
  }
  return all;
}

// khorus_backend::supports: what every CPU backend can run.
inline int32_t supports_on_cpu(uint8_t kind, uint8_t dtype, uint8_t reduce_op,
                               uint8_t device) noexcept {
  if (device != static_cast<uint8_t>(DeviceKind::kCpu) || dtype >= kDataTypeCount) return 0;
  switch (static_cast<OpKind>(kind)) {
    case OpKind::kAllreduce:
    case OpKind::kReducescatter:
      return reduce_op < kReduceOpCount && reduce_op != static_cast<uint8_t>(ReduceOp::kAverage) &&
                     reduce_op != static_cast<uint8_t>(ReduceOp::kAdasum)
                 ? 1
                 : 0;
    case OpKind::kAllgather:
    case OpKind::kBroadcast:
    case OpKind::kAlltoall:
    case OpKind::kSendRecv:
      return 1;
    default:
      return 0;
  }
}

// What open() must refuse, for a backend that takes its timeout from the group (`name`), or has
// none (null).
inline Status check_group(const khorus_group& group, const char* name) {
  if (group.size < 1 || group.rank < 0 || group.rank >= group.size) {
    return Status(StatusCode::kInvalidArgument, "rank " + std::to_string(group.rank) +
                                                    " is not in a group of size " +
                                                    std::to_string(group.size));
  }
  if (name != nullptr && group.timeout_ms == 0) {
    return Status(StatusCode::kInvalidArgument,
                  std::string("the timeout of the ") + name + " backend must be positive");
  }
  return {};
}

template <class Communicator>
struct Edge {
  static int32_t open(const khorus_group* group, khorus_comm** comm, khorus_error* error) {
    *comm = nullptr;
    return guard(error, [&]() -> Status {
      if (group->struct_size < sizeof(khorus_group) ||
          group->host->struct_size < sizeof(khorus_host)) {
        return older_engine();
      }
      Result<std::unique_ptr<Communicator>> opened = Communicator::open(*group);
      if (!opened) return opened.status();
      *comm = reinterpret_cast<khorus_comm*>(opened.value().release());
      return {};
    });
  }
  static int32_t connect(khorus_comm* comm, khorus_error* error) {
    return guard(error, [&] { return self(comm).connect(); });
  }
  static int32_t run(khorus_comm* comm, const khorus_op* op, khorus_error* error) {
    return guard(error, [&]() -> Status {
      const OpKind kind = static_cast<OpKind>(op->kind);
      const bool reads_all =
          kind == OpKind::kAllreduce || kind == OpKind::kAlltoall || kind == OpKind::kSendRecv;
      if (op->struct_size < (reads_all ? sizeof(khorus_op) : offsetof(khorus_op, recv_counts))) {
        return older_engine();
      }
      return self(comm).run(*op);
    });
  }
  static int32_t allocate(khorus_comm* comm, uint64_t bytes, khorus_memory* memory,
                          khorus_error* error) {
    return guard(error, [&]() -> Status {
      if (memory->struct_size < sizeof(khorus_memory)) return older_engine();
      Result<khorus_memory> allocated = self(comm).allocate(bytes);
      if (allocated) *memory = *allocated;
      return allocated.status();
    });
  }
  static int32_t order(khorus_comm* comm, uint64_t sequence, void* stream, khorus_error* error) {
    return guard(error, [&] { return self(comm).order(sequence, stream); });
  }
  static int32_t finish(khorus_comm* comm, uint64_t sequence, khorus_error* error) {
    return guard(error, [&] { return self(comm).finish(sequence); });
  }
  static int32_t times(khorus_comm* comm, uint64_t sequence, int64_t* begin_ns, int64_t* end_ns) {
    return self(comm).times(sequence, begin_ns, end_ns) ? 1 : 0;
  }
  static void abort(khorus_comm* comm, const char* reason) {
    guard(nullptr, [&]() -> Status {
      self(comm).abort(reason == nullptr ? "no reason given" : reason);
      return {};
    });
  }
  static void disconnect(khorus_comm* comm) {
    guard(nullptr, [&]() -> Status {
      delete &self(comm);
      return {};
    });
  }

 private:
  static Communicator& self(khorus_comm* comm) { return *reinterpret_cast<Communicator*>(comm); }

  static Status older_engine() {
    return Status(StatusCode::kUnavailable,
                  "the engine is older than this backend; install both from one build");
  }

  template <class Function>
  static int32_t guard(khorus_error* error, Function&& function) noexcept {
    try {
      return report(function(), error);
    } catch (const std::exception& thrown) {
      return report_thrown(thrown.what(), error);
    } catch (...) {
      return report_thrown("an exception that is not a std::exception", error);
    }
  }
  static int32_t report_thrown(const char* what, khorus_error* error) noexcept {
    // No allocation: what was thrown may be bad_alloc.
    if (error != nullptr) {
      error->code = static_cast<int32_t>(StatusCode::kInternal);
      error->rank = -1;
      std::strncpy(error->message, what, sizeof(error->message) - 1);
      error->message[sizeof(error->message) - 1] = '\0';
    }
    return static_cast<int32_t>(StatusCode::kInternal);
  }
};

// A CPU backend of processes on any host; what differs is set on what this returns.
template <class Communicator>
constexpr khorus_backend cpu_backend(const char* name, const char* version,
                                     int32_t (*probe)(khorus_error*)) {
  return {
      .struct_size = sizeof(khorus_backend),
      .abi_version = KHORUS_BACKEND_ABI,
      .name = name,
      .version = version,
      .probe = probe,
      .supports = supports_on_cpu,
      .in_process_only = 0,
      .open = Edge<Communicator>::open,
      .connect = Edge<Communicator>::connect,
      .run = Edge<Communicator>::run,
      .abort = Edge<Communicator>::abort,
      .disconnect = Edge<Communicator>::disconnect,
      .one_host_only = 0,
      .scales = 0,
      .allocate = nullptr,
      .describe = nullptr,
      .order = nullptr,
      .finish = nullptr,
      .times = nullptr,
      .devices = nullptr,
  };
}

}  // namespace khorus::backends
