// khorus._core: the engine for Python, without any framework.
//
// Tensors are what python/tensors.h says: whoever calls keeps the memory alive, which a Handle does
// (khorus/torch/_tensors.py). The GIL is released wherever a call can block; the threads of the
// engine never take it. A wait on the main thread returns to the interpreter for every signal, so
// that Ctrl-C ends it.
//
// Errors: InvalidArgument and DuplicateName are ValueError; all else is khorus.HorovodInternalError
// (a RuntimeError), with the status code and the lost rank as attributes.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "khorus/device.h"
#include "khorus/gradient_plan.h"
#include "khorus/khorus.h"
#include "khorus/object_key.h"
#include "khorus/version.h"
#include "python/tensors.h"

namespace py = pybind11;

namespace khorus::python {
namespace {

uint64_t generation = 0;  // of the default engine: how many there have been. Under the GIL.
PyObject* engine_error = nullptr;  // khorus.HorovodInternalError; made once, lives for ever

[[noreturn]] void raise(const Status& status) {
  if (status.code() == StatusCode::kInvalidArgument ||
      status.code() == StatusCode::kDuplicateName) {
    throw py::value_error(status.message());
  }
  const py::handle type(engine_error);
  const py::object error = type(status.to_string());
  error.attr("code") = std::string(status_code_name(status.code()));
  error.attr("lost_rank") = status.lost_rank();
  PyErr_SetObject(type.ptr(), error.ptr());
  throw py::error_already_set();
}

void check(const Status& status) {
  if (!status.ok()) raise(status);
}

template <class Call>
auto without_gil(const Call& call) {
  const py::gil_scoped_release released;
  return call();
}

// Runs a blocking call of the convenience API; its exception becomes a Status outside.
template <class Call>
void blocking(const Call& call) {
  std::optional<Status> failure;
  {
    const py::gil_scoped_release released;
    try {
      call();
    } catch (const Error& error) {
      failure = error.status();
    }
  }
  if (failure) raise(*failure);
}

Engine& the_engine() {
  try {
    return engine();
  } catch (const Error& error) {
    raise(error.status());
  }
}

void wait_for(const WorkPtr& work) {
  Status status;
  while (!without_gil([&] { return work->wait_or_signal(&status); })) {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  check(status);
}

// As wait_on_stream(): a stream waits, not the host.
void wait_on_stream_for(const WorkPtr& work, std::uintptr_t stream) {
  constexpr std::chrono::milliseconds kBetweenSignals(100);
  Status status;
  while (!without_gil([&] {
    return khorus::wait_on_stream_for(*work, reinterpret_cast<void*>(stream), kBetweenSignals,
                                      &status);
  })) {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  check(status);
}

AllreduceOptions reduction(int op, double prescale, double postscale, ProcessSetId set) {
  AllreduceOptions options;
  options.op = static_cast<ReduceOp>(op);
  options.prescale = prescale;
  options.postscale = postscale;
  options.process_set = set;
  return options;
}

void bind_work(py::module_& m) {
  py::class_<Result>(m, "Result", py::buffer_protocol())
      .def_buffer(&Result::buffer)
      .def_property_readonly("shape", &Result::shape)
      .def_property_readonly("dtype", &Result::dtype)
      .def_property_readonly("address", &Result::address)
      .def_property_readonly("bytes", &Result::bytes)
      .def_property_readonly("device", &Result::device);
  py::class_<Work, WorkPtr>(m, "Work")
      .def_property_readonly("name", &Work::name)
      .def("poll", &Work::poll)
      .def("wait", &wait_for)
      .def("wait_on_stream", &wait_on_stream_for)
      .def("result", [](const Work& work) { return Result(work.result()); })
      .def("first_extents", &Work::first_extents)
      .def("last_joined", &Work::last_joined);
}

void bind_reductions(py::module_& m) {
  m.def("allreduce", [](const std::string& name, const Tensor& input, const Tensor& output, int op,
                        double prescale, double postscale, ProcessSetId set) {
    return the_engine().allreduce_async(name, view_of(input), view_of(output),
                                        reduction(op, prescale, postscale, set));
  });
  m.def("grouped_allreduce",
        [](const std::string& group, const std::vector<std::string>& names,
           const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs, int op,
           double prescale, double postscale, ProcessSetId set) {
          return the_engine().grouped_allreduce_async(group, members_of(names, inputs, outputs),
                                                      reduction(op, prescale, postscale, set));
        });
  m.def("reducescatter", [](const std::string& name, const Tensor& input, int op, double prescale,
                            double postscale, ProcessSetId set) {
    return the_engine().reducescatter_async(name, view_of(input),
                                            reduction(op, prescale, postscale, set));
  });
  m.def("grouped_reducescatter", [](const std::string& group, const std::vector<std::string>& names,
                                    const std::vector<Tensor>& inputs, int op, double prescale,
                                    double postscale, ProcessSetId set) {
    return the_engine().grouped_reducescatter_async(group, members_of(names, inputs, {}),
                                                    reduction(op, prescale, postscale, set));
  });
}

void bind_movements(py::module_& m) {
  m.def("allgather", [](const std::string& name, const Tensor& input, ProcessSetId set) {
    return the_engine().allgather_async(name, view_of(input), set);
  });
  m.def("grouped_allgather", [](const std::string& group, const std::vector<std::string>& names,
                                const std::vector<Tensor>& inputs, ProcessSetId set) {
    return the_engine().grouped_allgather_async(group, members_of(names, inputs, {}), set);
  });
  m.def("broadcast", [](const std::string& name, const Tensor& input, const Tensor& output,
                        int root, ProcessSetId set) {
    return the_engine().broadcast_async(name, view_of(input), view_of(output), root, set);
  });
  m.def("grouped_broadcast", [](const std::string& group, const std::vector<std::string>& names,
                                const std::vector<Tensor>& inputs,
                                const std::vector<Tensor>& outputs, int root, ProcessSetId set) {
    return the_engine().grouped_broadcast_async(group, members_of(names, inputs, outputs), root,
                                                set);
  });
  m.def("alltoall", [](const std::string& name, const Tensor& input,
                       const std::vector<int64_t>& splits, ProcessSetId set) {
    return the_engine().alltoall_async(name, view_of(input), splits, set);
  });
  m.def("grouped_alltoall", [](const std::string& group, const std::vector<std::string>& names,
                               const std::vector<Tensor>& inputs,
                               const std::vector<std::vector<int64_t>>& splits, ProcessSetId set) {
    return the_engine().grouped_alltoall_async(group, members_of(names, inputs, {}), splits, set);
  });
  m.def("send", [](const Tensor& input, int peer, int tag, ProcessSetId set) {
    return the_engine().send_async(view_of(input), peer, tag, set);
  });
  m.def("recv", [](const Tensor& output, int peer, int tag, ProcessSetId set) {
    return the_engine().recv_async(view_of(output), peer, tag, set);
  });
  m.def("join", [] { return the_engine().join_async(); });
  m.def("barrier", [](const std::string& name, ProcessSetId set) {
    return the_engine().barrier_async(name, set);
  });
}

// (number of the DataType, elements, arrival in microseconds, whether it fits)
using Profile = std::tuple<int, uint64_t, int64_t, bool>;

GradientLearning learn_from(const std::string& name, const std::vector<Profile>& profiles,
                            ProcessSetId set) {
  std::vector<GradientProfile> gradients;
  for (const auto& [dtype, elements, arrival_us, fits] : profiles) {
    gradients.push_back({static_cast<DataType>(dtype), elements, arrival_us, fits});
  }
  return learn_gradients(the_engine(), name, std::move(gradients), set);
}

void bind_arenas(py::module_& m) {
  py::class_<Memory>(m, "Memory", py::buffer_protocol())
      .def_buffer(&Memory::buffer)
      .def_property_readonly("address", &Memory::address)
      .def_property_readonly("bytes", &Memory::bytes);
  m.def("allocate", [](size_t bytes, ProcessSetId set) -> std::optional<Memory> {
    std::shared_ptr<void> memory = without_gil([&] { return the_engine().allocate(bytes, set); });
    if (memory == nullptr) return std::nullopt;
    return Memory(std::move(memory), bytes, /*on_device=*/false);
  });
  m.def("allocate_on_device", [](size_t bytes, ProcessSetId set) -> std::optional<Memory> {
    std::shared_ptr<void> memory =
        without_gil([&] { return the_engine().allocate_on_device(bytes, set); });
    if (memory == nullptr) return std::nullopt;
    return Memory(std::move(memory), bytes, /*on_device=*/true);
  });
  m.def("dlpack", &dlpack_of);
  using Bucket = GradientPlan::Bucket;
  py::class_<Bucket>(m, "Bucket")
      .def_readonly("gradients", &Bucket::gradients)
      .def_property_readonly("dtype", [](const Bucket& b) { return static_cast<int>(b.dtype); })
      .def_readonly("elements", &Bucket::elements)
      .def_readonly("offset_bytes", &Bucket::offset_bytes);
  py::class_<GradientPlan>(m, "GradientPlan")
      .def_readonly("buckets", &GradientPlan::buckets)
      .def_readonly("bytes", &GradientPlan::bytes);
  py::class_<GradientLearning>(m, "GradientLearning")
      .def("is_there",
           [](const GradientLearning& learning) {
             return learning.work->poll() && learning.work->wait().ok();
           })
      .def("plan", [](const GradientLearning& learning) {
        wait_for(learning.work);
        return learnt_plan(learning);
      });
  m.def("learn_gradients", &learn_from);
}

// Upon `signal` Python's faulthandler writes the stacks of all threads to `descriptor`; the signal
// is for the calling thread, a thread of Khorus.
std::string python_stacks(int signal, int descriptor) {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, signal);
  pthread_sigmask(SIG_UNBLOCK, &wanted, nullptr);
  if (ftruncate(descriptor, 0) != 0 || lseek(descriptor, 0, SEEK_SET) != 0) return "";
  if (pthread_kill(pthread_self(), signal) != 0) return "";  // returns when it has been handled
  std::string text(static_cast<size_t>(std::max<off_t>(lseek(descriptor, 0, SEEK_END), 0)), '\0');
  const ssize_t got = pread(descriptor, text.data(), text.size(), 0);
  text.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  return text;
}

void start_engine() {
  khorus::Result<EngineOptions> options = EngineOptions::from_environment();
  check(options.status());
  if (options->config.stack_dumps) {
    const auto [signal, descriptor] =
        py::module_::import("khorus._stacks").attr("register")().cast<std::pair<int, int>>();
    if (signal != 0) {
      options->interpreter_stacks = [signal = signal, descriptor = descriptor] {
        return python_stacks(signal, descriptor);
      };
    }
  }
  blocking([&] { init(*options); });
}

void bind_life(py::module_& m) {
  m.def("init", [](const std::vector<std::vector<int>>& sets) {
    const bool fresh = !is_initialized();
    if (fresh) {
      start_engine();
    } else {
      blocking([] { init(); });
    }
    if (fresh) ++generation;
    // The engine is there already if this was not the first call; sets are then added as usual.
    std::vector<ProcessSetId> ids;
    blocking([&] {
      for (const auto& ranks : sets) ids.push_back(add_process_set(ranks));
    });
    return ids;
  });
  m.def("shutdown", [] { blocking([] { shutdown(); }); });
  m.def("generation", [] { return generation; });
  m.def("is_initialized", [] { return is_initialized(); });
  m.def("installed_backends", &installed_backends);
  m.def("backend_version", &backend_version);
  m.def("place", [] {
    const Place& place = the_engine().place();
    return std::make_tuple(place.rank, place.size, place.local_rank, place.local_size,
                           place.cross_rank, place.cross_size);
  });
  m.def("object_key", [] {
    const auto key = object_key(the_engine());
    return py::bytes(reinterpret_cast<const char*>(key.data()), key.size());
  });
  m.def("backend_name", [] { return the_engine().backend_name(); });
  m.def("add_process_set", [](const std::vector<int>& ranks) {
    ProcessSetId id = -1;
    blocking([&] { id = add_process_set(ranks); });
    return id;
  });
  m.def("remove_process_set", [](ProcessSetId id) { blocking([&] { remove_process_set(id); }); });
  m.def("process_set_ranks", [](ProcessSetId id) {
    const auto ranks = the_engine().process_set_ranks(id);
    check(ranks.status());
    return *ranks;
  });
  m.def("start_timeline", [](const std::string& path, bool mark_cycles) {
    check(the_engine().start_timeline(path, mark_cycles));
  });
  m.def("stop_timeline", [] { check(the_engine().stop_timeline()); });
  m.def("metrics_text", [] { return the_engine().metrics_text(); });
  m.def("dump_flight_recorder",
        [](const std::string& path) { check(the_engine().dump_flight_recorder(path)); });
}

}  // namespace
}  // namespace khorus::python

PYBIND11_MODULE(_core, m) {
  using namespace khorus::python;
  m.doc() = "The engine of Khorus; see core.cc.";
  m.attr("__version__") = KHORUS_VERSION_STRING;
  engine_error = PyErr_NewExceptionWithDoc(
      "khorus.HorovodInternalError",
      "An operation failed because of another rank, the network or a disagreement of ranks.\n\n"
      "`code` is the status in words (\"peer lost\", \"mismatch\", ...), `lost_rank` the rank "
      "that\n"
      "was lost, or -1.",
      PyExc_RuntimeError, nullptr);
  m.attr("HorovodInternalError") = py::handle(engine_error);
  bind_work(m);
  bind_reductions(m);
  bind_movements(m);
  bind_arenas(m);
  bind_life(m);
}
