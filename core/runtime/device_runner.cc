// See device_runner.h.
#include "core/runtime/device_runner.h"

#include <cstring>
#include <numeric>
#include <utility>

#include "core/base/upper_case.h"
#include "core/runtime/backend_call.h"
#include "core/runtime/device_mark.h"
#include "core/runtime/rows.h"
#include "core/runtime/scaling.h"

namespace khorus::runtime {
namespace {

constexpr std::string_view kOnDevice = "ON_DEVICE";

bool is_sum_of_floats(const wire::Request& request) {
  return !is_integer(request.dtype) && request.dtype != DataType::kBool &&
         (request.op == ReduceOp::kSum || request.op == ReduceOp::kAverage);
}

// A sum of floats is scaled once, before: a sum of 16-bit floats may be out of their range.
Scaling scaling_on_device(const wire::Request& request, int group_size) {
  Scaling scaling = scaling_of(request, group_size);
  if (is_sum_of_floats(request)) scaling.before *= std::exchange(scaling.after, 1.0);
  return scaling;
}

void set_scaling(const wire::Request& request, int group_size, khorus_op* op) {
  const Scaling scaling = scaling_on_device(request, group_size);
  op->scale = scaling.before;
  op->scale_after = scaling.after;
  op->divisor = scaling.divisor;
}

}  // namespace

std::optional<std::string> objection_on_device(const wire::Request& request, int group_size) {
  if (request.kind != OpKind::kAllreduce && request.kind != OpKind::kReducescatter) return {};
  const Scaling scaling = scaling_on_device(request, group_size);
  if (scaling.before != 0.0 && scaling.after != 0.0) return {};
  return "on a GPU nothing is scaled by 0, and the factors of this are " +
         std::to_string(request.prescale) + " and " + std::to_string(request.postscale) +
         "; fill the result with zeros instead";
}

DeviceRunner::DeviceRunner(Options options)
    : options_(std::move(options)),
      backend_event_(base::upper_case(options_.plane->backend().name) + "_") {}

Status DeviceRunner::launch(const Job& job, Launched* launched) {
  note_end(job);  // QUEUE
  const OpKind kind = job.response.tensors.front().request.kind;
  if (options_.timeline->enabled()) note(job, backend_event_ + base::upper_case(to_string(kind)));
  std::vector<Part> parts;
  parts.reserve(job.works.size());
  for (size_t i = 0; i < job.works.size(); ++i) {
    const WorkState::Operation& operation = job.works[i]->operation();
    parts.push_back(
        {job.response.tensors[i], *job.works[i], job.sequence, operation.input, operation.output});
    if (Status status = fill_in(parts.back(), launched); !status.ok()) return status;
  }
  Status status = parts.size() == 1 ? launch_part(parts.front()) : launch_fused(parts);
  if (!status.ok()) return status;
  for (const Part& part : parts) {
    if (const auto& mark = part.work.device_mark()) mark->launched(options_.plane, job.sequence);
  }
  launched->sequence = job.sequence;
  executed_.fetch_add(1, std::memory_order_relaxed);
  return status;
}

Status DeviceRunner::fill_in(Part& part, Launched* launched) const {
  if (part.input.data != nullptr || part.input.bytes() == 0) return Status();
  auto zeros = memory("the zeros of a rank that has joined", part.input.bytes());
  if (!zeros.ok()) return zeros.status();
  part.input.data = part.output.data = zeros->get();
  launched->memory.push_back(std::move(*zeros));
  return Status();
}

Status DeviceRunner::launch_fused(std::vector<Part>& parts) {
  const wire::Request& request = parts.front().tensor.request;
  khorus_op op = operation_of(parts.front());
  op.input = op.output = op.stream = op.ready_event = nullptr;
  std::vector<khorus_piece> pieces;
  pieces.reserve(parts.size());
  const bool reads_output = request.kind == OpKind::kBroadcast && op.root != options_.rank;
  for (const Part& part : parts) {
    const auto count = static_cast<uint64_t>(element_count(part.output.shape));
    if (count == 0) continue;
    pieces.push_back({reads_output ? part.output.data : part.input.data, part.output.data, count,
                      part.input.stream, part.input.ready_event});
    op.count += count;
  }
  if (pieces.empty()) return Status();
  op.pieces = pieces.data();
  op.piece_count = pieces.size();
  if (request.kind == OpKind::kAllreduce) {
    set_scaling(request, size(), &op);
    bytes_reduced_.fetch_add(op.count * element_size(request.dtype), std::memory_order_relaxed);
  }
  return run(parts.front(), op);
}

Status DeviceRunner::launch_part(Part& part) {
  switch (part.tensor.request.kind) {
    case OpKind::kAllreduce:
      return allreduce(part);
    case OpKind::kBroadcast:
      return broadcast(part);
    case OpKind::kAllgather:
      return allgather(part);
    case OpKind::kAlltoall:
      return alltoall(part);
    case OpKind::kReducescatter:
      return reducescatter(part);
    case OpKind::kSendRecv:
      return send_recv(part);
    default:
      return Status(StatusCode::kInternal, "an operation without data reached the data plane");
  }
}

// ---- the operations ----

Status DeviceRunner::allreduce(Part& part) {
  khorus_op op = operation_of(part);
  op.count = static_cast<uint64_t>(element_count(part.output.shape));
  if (op.count == 0) return Status();
  bytes_reduced_.fetch_add(part.output.bytes(), std::memory_order_relaxed);
  set_scaling(part.tensor.request, size(), &op);
  return run(part, op);
}

Status DeviceRunner::broadcast(Part& part) {
  khorus_op op = operation_of(part);
  op.count = static_cast<uint64_t>(element_count(part.output.shape));
  if (op.count == 0) return Status();
  if (op.root != options_.rank) op.input = op.output;
  return run(part, op);
}

Status DeviceRunner::allgather(Part& part) {
  const int64_t rows =
      std::accumulate(part.tensor.extents.begin(), part.tensor.extents.end(), int64_t{0});
  const std::vector<uint64_t> counts =
      elements_of(part.tensor.extents, elements_per_row(part.tensor.request.shape));
  Result<TensorView> result = result_of(part, rows);
  if (!result.ok()) return result.status();
  khorus_op op = operation_of(part);
  op.output = result->data;
  op.count = counts[static_cast<size_t>(options_.rank)];
  op.counts = counts.data();
  bytes_reduced_.fetch_add(result->bytes(), std::memory_order_relaxed);
  part.work.set_gathered(std::move(*result), part.tensor.extents);
  return total(counts) == 0 ? Status() : run(part, op);
}

// How many rows come from whom must be known on the host, to make room for them; it travels on the
// control channel, as the communicator carries memory of the device only.
Status DeviceRunner::alltoall(Part& part) {
  const std::vector<int64_t>& splits = part.work.operation().splits;
  const auto gathered = options_.exchange("splits", std::as_bytes(std::span(splits)));
  if (!gathered.ok()) return gathered.status();
  std::vector<int64_t> received;
  for (const wire::Bytes& bytes : *gathered) {
    if (bytes.size() != splits.size() * sizeof(int64_t)) {
      return Status(StatusCode::kInternal, "a rank has splits for another number of ranks");
    }
    int64_t rows = 0;
    std::memcpy(&rows, bytes.data() + static_cast<size_t>(options_.rank) * sizeof rows,
                sizeof rows);
    received.push_back(rows);
  }
  const uint64_t row = elements_per_row(part.tensor.request.shape);
  const std::vector<uint64_t> send_counts = elements_of(splits, row);
  const std::vector<uint64_t> recv_counts = elements_of(received, row);
  Result<TensorView> result =
      result_of(part, std::accumulate(received.begin(), received.end(), int64_t{0}));
  if (!result.ok()) return result.status();
  khorus_op op = operation_of(part);
  op.output = result->data;
  op.count = total(send_counts);
  op.counts = send_counts.data();
  op.recv_counts = recv_counts.data();
  bytes_reduced_.fetch_add(result->bytes(), std::memory_order_relaxed);
  part.work.set_gathered(std::move(*result), std::move(received));
  return row == 0 ? Status() : run(part, op);
}

Status DeviceRunner::reducescatter(Part& part) {
  const Shape& shape = part.tensor.request.shape;
  const std::vector<int64_t> rows = scattered_rows(shape.front(), size());
  const std::vector<uint64_t> counts = elements_of(rows, elements_per_row(shape));
  Result<TensorView> result = result_of(part, rows[static_cast<size_t>(options_.rank)]);
  if (!result.ok()) return result.status();
  khorus_op op = operation_of(part);
  op.output = result->data;
  op.count = total(counts);
  op.counts = counts.data();
  set_scaling(part.tensor.request, size(), &op);
  bytes_reduced_.fetch_add(part.input.bytes(), std::memory_order_relaxed);
  part.work.set_gathered(std::move(*result), {});
  return op.count == 0 ? Status() : run(part, op);
}

Status DeviceRunner::send_recv(Part& part) {
  const wire::Request& request = part.tensor.request;
  const int sender = group_rank(request.root_rank);
  const bool sends = sender == options_.rank;
  const auto count = static_cast<uint64_t>(element_count(request.shape));
  if (count == 0) return Status();
  khorus_op op = operation_of(part);
  op.peer = sends ? group_rank(request.peer) : sender;
  op.input = sends ? part.input.data : nullptr;
  op.count = sends ? count : 0;
  op.output = sends ? nullptr : part.output.data;
  op.recv_count = sends ? 0 : count;
  return run(part, op);
}

// ---- all ----

khorus_op DeviceRunner::operation_of(const Part& part) const {
  khorus_op op = runtime::operation_of(part.tensor.request, options_.ranks, options_.epoch);
  op.sequence = part.sequence;
  op.input = part.input.data;
  op.output = part.output.data;
  op.stream = part.input.stream;
  op.ready_event = part.input.ready_event;
  op.timed = options_.timeline->enabled() ? 1 : 0;
  return op;
}

Status DeviceRunner::run(const Part& part, khorus_op op) {
  if (Status status = options_.plane->run(op); !status.ok()) {
    return Status(status.code(), "\"" + part.work.name() + "\": " + status.message(),
                  status.lost_rank());
  }
  return Status();
}

Result<TensorView> DeviceRunner::result_of(const Part& part, int64_t rows) const {
  TensorView result;
  result.dtype = part.tensor.request.dtype;
  result.shape = part.tensor.request.shape;
  result.shape.front() = rows;
  result.device = options_.device;
  const size_t bytes = result.bytes();
  if (bytes == 0) return result;
  auto memory_of_result = memory("a result", bytes);
  if (!memory_of_result.ok()) return memory_of_result.status();
  result.owner = std::move(*memory_of_result);
  result.data = result.owner.get();
  return result;
}

Result<std::shared_ptr<void>> DeviceRunner::memory(const char* what, size_t bytes) const {
  std::shared_ptr<void> lent = options_.plane->allocate(bytes);
  if (lent != nullptr) return lent;
  return Status(StatusCode::kUnavailable, "no memory on " + to_string(options_.device) + " for " +
                                              what + " of " + std::to_string(bytes) +
                                              " bytes; free some there, or gather less");
}

int DeviceRunner::group_rank(int global_rank) const {
  return runtime::group_rank(options_.ranks, global_rank);
}

void DeviceRunner::note(const Job& job, std::string_view event) {
  for (const WorkStatePtr& work : job.works) options_.timeline->begin(work->name(), event);
}

void DeviceRunner::note_time_on_device(const Job& job) {
  if (!options_.timeline->enabled()) return;
  const std::optional<DeviceSpan> span = options_.plane->times(job.sequence);
  if (!span) return;
  for (const WorkStatePtr& work : job.works) {
    options_.timeline->span(work->name(), kOnDevice, span->begin, span->end);
  }
}

void DeviceRunner::note_end(const Job& job) {
  if (!options_.timeline->enabled()) return;
  for (const WorkStatePtr& work : job.works) options_.timeline->end(work->name());
}

}  // namespace khorus::runtime
