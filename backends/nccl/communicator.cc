// See communicator.h.
#include "backends/nccl/communicator.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "backends/nccl/pieces.h"
#include "backends/operation.h"
#include "backends/plugin.h"
#include "khorus/options.h"
#include "khorus/types.h"

namespace khorus::backends::nccl {
namespace {

using std::chrono::milliseconds;

// NCCL tells of failures only when it is asked.
constexpr milliseconds kBetweenChecks{50};
// How long the device may take to come to the end of what was aborted.
constexpr milliseconds kDrainPatience{800};

CUstream stream_of(void* handle) { return static_cast<CUstream>(handle); }

}  // namespace

Result<std::unique_ptr<Communicator>> Communicator::open(const khorus_group& group) {
  if (Status status = check_group(group, "nccl"); !status.ok()) return status;
  const Result<const Driver*> driver = Driver::load();
  if (!driver) return driver.status();
  const Result<const Library*> library = Library::load();
  if (!library) return library.status();
  const Party party(group);
  const int devices = (*driver)->devices;
  if (group.device < 0 || group.device >= devices) {
    return Status(StatusCode::kUnavailable,
                  party.name(static_cast<size_t>(group.rank)) + " is to use GPU " +
                      std::to_string(group.device) + ", and the driver shows it " +
                      std::to_string(devices) + (devices == 1 ? " (0)" : ", numbered from 0") +
                      "; start at most as many ranks on a host as it has GPUs, and look at "
                      "CUDA_VISIBLE_DEVICES");
  }
  Result<std::unique_ptr<Device>> device = Device::open(**driver, group.device);
  if (!device) return device.status();
  std::unique_ptr<Communicator> made(new Communicator(group, **driver, **library));
  made->device_ = std::move(*device);
  return made;
}

Communicator::Communicator(const khorus_group& group, const Driver& driver, const Library& library)
    : party_(group),
      timeout_(group.timeout_ms),
      library_(library),
      clique_(library, *progress_, timeout_),
      clock_(driver) {}

Communicator::~Communicator() {
  if (device_ == nullptr) return;
  uint64_t last = 0;
  {
    const std::scoped_lock lock(mutex_);
    if (!flights_.empty()) last = flights_.back().sequence;
  }
  // What is under way belongs to callers who have not asked for its end.
  Status status = progress_->end();
  if (status.ok() && is_connected_) status = finish(last);
  const DeviceScope scope(device_->driver(), device_->context());
  if (status.ok() && is_connected_) {
    clique_.leave();
  } else {
    clique_.abort();
    drain();
  }
}

Status Communicator::connect() {
  if (Status status = progress_->end(); !status.ok()) return status;
  const DeviceScope scope(device_->driver(), device_->context());
  mover_.emplace(*device_, load_kernels());
  if (party_.size > 1) {
    const Result<Agreement> agreed =
        meet(party_, library_, device_->driver(), mover_->kernels() != nullptr);
    if (Status end = progress_->end(); !end.ok()) return end;
    if (!agreed) return agreed.status();
    Status status = clique_.init({agreed->id, party_.rank, party_.size});
    if (!status.ok()) {
      clique_.abort();
      if (Status end = progress_->end(); !end.ok()) return end;
      if (agreed->twins.empty()) return status;
      return Status(status.code(), agreed->twins +
                                       ", which NCCL before 2.30 refuses and later "
                                       "ones allow with NCCL_MULTI_RANK_GPU_ENABLE=1; "
                                       "start at most one rank per GPU (" +
                                       status.message() + ")");
    }
    collectives_.emplace(*device_, clique_, mover_->kernels(), party_.rank, party_.size);
    all_have_kernels_ = agreed->have_kernels;
  }
  const std::scoped_lock lock(mutex_);
  is_connected_ = true;
  return progress_->end();
}

std::unique_ptr<Module> Communicator::load_kernels() const {
  Result<std::unique_ptr<Module>> module = Module::load(device_->driver(), device_->context());
  if (module) return std::move(*module);
  // One line is enough for all communicators of the process.
  static std::atomic_flag is_told = ATOMIC_FLAG_INIT;
  if (!is_told.test_and_set()) {
    const std::string line = "nccl: no kernels on GPU " + std::to_string(party_.device) + " (" +
                             module.status().message() +
                             "): tensors that travel together are packed by one copy for each, and "
                             "what NCCL does not scale is scaled on the host";
    party_.host->log(party_.host->engine, static_cast<int32_t>(LogLevel::kWarning), line.c_str());
  }
  return nullptr;
}

Status Communicator::run(const khorus_op& op) {
  if (Status status = progress_->end(); !status.ok()) return status;
  if (!is_connected_) return Status(StatusCode::kInternal, "run before connect");
  const DeviceScope scope(device_->driver(), device_->context());
  Status status = put_in_stream(op);
  if (status.ok()) return status;
  return give_up(Status(status.code(), "in " + describe(op) + ": " + status.message()));
}

Status Communicator::await(void* stream, void* ready_event) {
  const Driver& driver = device_->driver();
  const auto wait_for = [&](CUevent event) {
    return device_->status_of(driver.stream_wait_event(device_->stream(), event, 0),
                              "cuStreamWaitEvent");
  };
  if (ready_event != nullptr) return wait_for(static_cast<CUevent>(ready_event));
  const Result<CUevent> ready = device_->record(stream_of(stream));
  if (!ready) return ready.status();
  Status status = wait_for(*ready);
  device_->give_back(*ready);  // the wait is for the moment, not for what is recorded later
  return status;
}

// Tensors that travel together are multiplied while they are packed, if all ranks can do that: NCCL
// has more ways to run a plain sum, and the ranks must take the same.
Status Communicator::run_in_stream(const khorus_op& op) {
  const bool multiplies = !collectives_ || (all_have_kernels_ && is_in_pieces(op));
  Result<Packed> packed = pack(*device_, op, {party_.rank, !multiplies});
  if (!packed) return packed.status();
  Status status = mover_->upload({&packed->in, &packed->out});
  if (status.ok()) status = mover_->run(packed->in);
  const khorus_op& rest = packed->op;
  if (status.ok()) {
    status = collectives_ ? collectives_->run(rest)
                          : device_->copy(rest.output, rest.input, rest.count * width_of(rest));
  }
  return status.ok() ? mover_->run(packed->out) : status;
}

Status Communicator::put_in_stream(const khorus_op& op) {
  Status status;
  if (is_in_pieces(op)) {
    for (uint64_t i = 0; i < op.piece_count && status.ok(); ++i) {
      const khorus_piece& piece = op.pieces[i];
      const bool is_waited_for = i > 0 && piece.ready_event == nullptr &&
                                 op.pieces[i - 1].ready_event == nullptr &&
                                 op.pieces[i - 1].stream == piece.stream;
      if (!is_waited_for) status = await(piece.stream, piece.ready_event);
    }
  } else {
    status = await(op.stream, op.ready_event);
  }
  if (!status.ok()) return status;
  const CUstream stream = device_->stream();
  const auto timing = op.timed != 0 ? Device::Timing::kOn : Device::Timing::kOff;
  const Result<CUevent> begun = device_->record(stream, timing);
  if (!begun) return begun.status();
  if (status = run_in_stream(op); !status.ok()) return status;
  const Result<CUevent> done = device_->record(stream, timing);
  if (!done) return done.status();
  const std::scoped_lock lock(mutex_);
  flights_.push_back({++started_, op.sequence, *begun, *done, timing});
  return device_->tell(*done, progress_, started_);
}

// The operations are done in their order, so the last one up to this sequence stands for all.
std::optional<Communicator::Flight> Communicator::find_flight(uint64_t sequence) {
  const std::scoped_lock lock(mutex_);
  std::optional<Flight> found;
  for (const Flight& flight : flights_) {
    if (flight.sequence > sequence) break;
    found = flight;
  }
  return found;
}

Status Communicator::order(uint64_t sequence, void* stream) {
  if (Status status = progress_->end(); !status.ok()) return status;
  const DeviceScope scope(device_->driver(), device_->context());
  // Under the lock, so that nobody gives the event back meanwhile.
  const std::scoped_lock lock(mutex_);
  const auto after = std::find_if(flights_.begin(), flights_.end(),
                                  [&](const Flight& flight) { return flight.sequence > sequence; });
  if (after == flights_.begin()) return {};  // complete, and the host has seen it
  return device_->status_of(
      device_->driver().stream_wait_event(stream_of(stream), std::prev(after)->done, 0),
      "cuStreamWaitEvent");
}

Status Communicator::finish(uint64_t sequence) {
  const std::optional<Flight> flight = find_flight(sequence);
  if (!flight) return progress_->end();
  const DeviceScope scope(device_->driver(), device_->context());
  std::optional<Clock::time_point> begun;
  while (!progress_->wait(flight->number, kBetweenChecks)) {
    Status status = progress_->end();
    if (status.ok()) {
      status = clique_.check();
      if (!status.ok()) status = Status(status.code(), where() + ": " + status.message());
    }
    if (status.ok()) status = check_silence(*flight, begun);
    if (!status.ok()) return give_up(status);
  }
  // What was cut off by an abort comes to its end, too.
  if (Status status = progress_->end(); !status.ok()) return give_up(status);
  return land(*flight);
}

Status Communicator::check_silence(const Flight& flight, std::optional<Clock::time_point>& since) {
  const Clock::time_point now = Clock::now();
  if (!since) {
    // Before, it is the framework's work that takes its time.
    if (device_->driver().event_query(flight.begun) == CUDA_SUCCESS) since = now;
    return {};
  }
  if (now - *since < timeout_) return {};
  return Status(StatusCode::kTimeout, where() + ": an operation has been on the device for " +
                                          std::to_string(timeout_.count()) +
                                          " ms; NCCL does not say which rank it waits for");
}

// The device says whether it went well; events go back.
Status Communicator::land(const Flight& flight) {
  const Clock::time_point seen = Clock::now();
  const Status status =
      device_->status_of(device_->driver().event_query(flight.done), "an operation");
  if (!status.ok()) return give_up(status);
  const std::scoped_lock lock(mutex_);
  for (; !flights_.empty() && flights_.front().number <= flight.number; flights_.pop_front()) {
    const Flight& landed = flights_.front();
    const CUevent before = clock_.reference();
    if (landed.timing == Device::Timing::kOn && landed.number == flight.number) time(landed, seen);
    device_->give_back(landed.begun, landed.timing);
    if (clock_.reference() == before) {
      device_->give_back(landed.done, landed.timing);
    } else if (before != nullptr) {  // the clock has the new one
      device_->give_back(before, Device::Timing::kOn);
    }
  }
  return {};
}

void Communicator::time(const Flight& flight, Clock::time_point seen) {
  timed_sequence_ = flight.sequence;
  timed_ = clock_.span(flight.begun, flight.done,
                       std::chrono::nanoseconds(seen.time_since_epoch()).count());
}

bool Communicator::times(uint64_t sequence, int64_t* begin_ns, int64_t* end_ns) {
  const std::scoped_lock lock(mutex_);
  if (!timed_ || timed_sequence_ != sequence) return false;
  *begin_ns = timed_->begin;
  *end_ns = timed_->end;
  return true;
}

Result<khorus_memory> Communicator::allocate(size_t bytes) {
  if (Status status = progress_->end(); !status.ok()) return status;
  return device_->lending().lend(bytes);
}

void Communicator::abort(const std::string& reason) {
  progress_->abort(reason);
  const DeviceScope scope(device_->driver(), device_->context());
  clique_.abort();
}

Status Communicator::give_up(const Status& failure) {
  progress_->fail(failure);
  clique_.abort();
  const Status end = progress_->end();
  if (drain()) return end;
  return Status(end.code(),
                end.message() + "; " + where() +
                    ": the device has not come to the end of what was aborted, because work of the "
                    "framework's before it is not done: keep the memory",
                end.lost_rank());
}

bool Communicator::drain() {
  const Result<CUevent> last = device_->record(device_->stream());
  if (!last) return true;  // a broken device touches nothing
  const auto drained = std::make_shared<Progress>();
  if (!device_->tell(*last, drained, 1).ok()) return true;
  drained->wait(1, kDrainPatience);
  if (device_->driver().event_query(*last) != CUDA_ERROR_NOT_READY) return true;
  device_->lending().distrust_lent();
  return false;
}

std::string Communicator::where() const { return party_.name(static_cast<size_t>(party_.rank)); }

}  // namespace khorus::backends::nccl
