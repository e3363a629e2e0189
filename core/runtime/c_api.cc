// khorus/c.h over the default engine. No exception leaves a function here.
#include "khorus/c.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "khorus/khorus.h"

struct khorus_work {
  khorus::WorkPtr work;
  khorus::TensorView result;  // lends its shape to khorus_result()
};

namespace khorus {
namespace {

struct LastError {
  std::string message;
  int lost_rank = -1;
};
thread_local LastError t_last_error;

int32_t report(const Status& status) {
  if (!status.ok()) t_last_error = {status.to_string(), status.lost_rank()};
  return static_cast<int32_t>(status.code());
}

template <class Function>
int32_t guarded(Function&& function) {
  try {
    return report(function());
  } catch (const Error& error) {
    return report(error.status());
  } catch (const std::exception& error) {
    return report(Status(StatusCode::kInternal, error.what()));
  }
}

TensorView view_of(const khorus_tensor* tensor) {
  TensorView view;
  if (tensor == nullptr) return view;
  view.data = tensor->data;
  view.dtype = static_cast<DataType>(std::clamp(tensor->dtype, 0, 255));
  if (tensor->dimensions > 0) view.shape.assign(tensor->shape, tensor->shape + tensor->dimensions);
  return view;
}

AllreduceOptions options_of(int32_t reduction, double prescale, double postscale, int32_t set) {
  AllreduceOptions options;
  options.op = static_cast<ReduceOp>(std::clamp(reduction, 0, 255));
  options.prescale = prescale;
  options.postscale = postscale;
  options.process_set = set;
  return options;
}

std::string text_of(const char* name) { return name == nullptr ? "" : name; }

template <class Start>
int32_t start(khorus_work** work, Start&& submit) {
  *work = nullptr;
  return guarded([&]() -> Status {
    *work = new khorus_work{submit(engine()), {}};
    return Status();
  });
}

int32_t place(int (*function)()) {
  try {
    return function();
  } catch (const std::exception&) {
    return -1;
  }
}

}  // namespace
}  // namespace khorus

using khorus::guarded;
using khorus::start;
using khorus::view_of;

int32_t khorus_init(void) {
  return guarded([] {
    khorus::init();
    return khorus::Status();
  });
}

int32_t khorus_shutdown(void) {
  return guarded([] {
    khorus::shutdown();
    return khorus::Status();
  });
}

int32_t khorus_is_initialized(void) { return khorus::is_initialized() ? 1 : 0; }
int32_t khorus_rank(void) { return khorus::place(&khorus::rank); }
int32_t khorus_size(void) { return khorus::place(&khorus::size); }
int32_t khorus_local_rank(void) { return khorus::place(&khorus::local_rank); }
int32_t khorus_local_size(void) { return khorus::place(&khorus::local_size); }
int32_t khorus_cross_rank(void) { return khorus::place(&khorus::cross_rank); }
int32_t khorus_cross_size(void) { return khorus::place(&khorus::cross_size); }

const char* khorus_error_message(void) { return khorus::t_last_error.message.c_str(); }
int32_t khorus_lost_rank(void) { return khorus::t_last_error.lost_rank; }

int32_t khorus_allreduce(khorus_work** work, const char* name, const khorus_tensor* input,
                         const khorus_tensor* output, int32_t reduction, double prescale,
                         double postscale, int32_t process_set) {
  return start(work, [&](khorus::Engine& engine) {
    return engine.allreduce_async(khorus::text_of(name), view_of(input), view_of(output),
                                  khorus::options_of(reduction, prescale, postscale, process_set));
  });
}

int32_t khorus_allgather(khorus_work** work, const char* name, const khorus_tensor* input,
                         int32_t process_set) {
  return start(work, [&](khorus::Engine& engine) {
    return engine.allgather_async(khorus::text_of(name), view_of(input), process_set);
  });
}

int32_t khorus_broadcast(khorus_work** work, const char* name, const khorus_tensor* input,
                         const khorus_tensor* output, int32_t root_rank, int32_t process_set) {
  return start(work, [&](khorus::Engine& engine) {
    return engine.broadcast_async(khorus::text_of(name), view_of(input), view_of(output), root_rank,
                                  process_set);
  });
}

int32_t khorus_alltoall(khorus_work** work, const char* name, const khorus_tensor* input,
                        const int64_t* splits, size_t split_count, int32_t process_set) {
  return start(work, [&](khorus::Engine& engine) {
    std::vector<int64_t> parts;
    if (splits != nullptr) parts.assign(splits, splits + split_count);
    return engine.alltoall_async(khorus::text_of(name), view_of(input), parts, process_set);
  });
}

int32_t khorus_reducescatter(khorus_work** work, const char* name, const khorus_tensor* input,
                             int32_t reduction, double prescale, double postscale,
                             int32_t process_set) {
  return start(work, [&](khorus::Engine& engine) {
    return engine.reducescatter_async(
        khorus::text_of(name), view_of(input),
        khorus::options_of(reduction, prescale, postscale, process_set));
  });
}

int32_t khorus_send(khorus_work** work, const khorus_tensor* input, int32_t peer, int32_t tag,
                    int32_t process_set) {
  return start(work, [&](khorus::Engine& engine) {
    return engine.send_async(view_of(input), peer, tag, process_set);
  });
}

int32_t khorus_recv(khorus_work** work, const khorus_tensor* output, int32_t peer, int32_t tag,
                    int32_t process_set) {
  return start(work, [&](khorus::Engine& engine) {
    return engine.recv_async(view_of(output), peer, tag, process_set);
  });
}

int32_t khorus_join(khorus_work** work) {
  return start(work, [](khorus::Engine& engine) { return engine.join_async(); });
}

int32_t khorus_barrier(int32_t process_set) {
  return guarded([&] { return khorus::engine().barrier_async("", process_set)->wait(); });
}

int32_t khorus_poll(const khorus_work* work) { return work->work->poll() ? 1 : 0; }

int32_t khorus_wait(khorus_work* work) {
  return guarded([&] { return work->work->wait(); });
}

int32_t khorus_result(khorus_work* work, khorus_tensor* result) {
  return guarded([&]() -> khorus::Status {
    if (!work->work->poll()) {
      return khorus::Status(
          khorus::StatusCode::kInvalidArgument,
          "khorus_result: \"" + work->work->name() + "\" is not over; call khorus_wait() first");
    }
    if (khorus::Status status = work->work->wait(); !status.ok()) return status;
    work->result = work->work->result();
    *result = {work->result.data, static_cast<int32_t>(work->result.dtype),
               static_cast<int32_t>(work->result.shape.size()), work->result.shape.data()};
    return khorus::Status();
  });
}

size_t khorus_first_extents(khorus_work* work, int64_t* extents, size_t capacity) {
  if (khorus_wait(work) != KHORUS_OK) return 0;
  const std::vector<int64_t> all = work->work->first_extents();
  std::copy_n(all.begin(), std::min(all.size(), capacity), extents);
  return all.size();
}

int32_t khorus_last_joined(khorus_work* work) {
  return khorus_wait(work) == KHORUS_OK ? work->work->last_joined() : -1;
}

void khorus_work_free(khorus_work* work) { delete work; }

int32_t khorus_add_process_set(const int32_t* ranks, size_t count, int32_t* id) {
  return guarded([&]() -> khorus::Status {
    const auto added = khorus::engine().add_process_set(std::vector<int>(ranks, ranks + count));
    if (added.ok()) *id = *added;
    return added.status();
  });
}

int32_t khorus_remove_process_set(int32_t id) {
  return guarded([&] { return khorus::engine().remove_process_set(id); });
}
