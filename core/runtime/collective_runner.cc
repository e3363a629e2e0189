// See collective_runner.h.
#include "core/runtime/collective_runner.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/base/reduce.h"

namespace khorus::runtime {
namespace {

std::string upper_case(std::string_view text) {
  std::string upper(text);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return upper;
}

bool is_integer(DataType dtype) noexcept {
  return dtype == DataType::kUint8 || dtype == DataType::kInt8 || dtype == DataType::kInt16 ||
         dtype == DataType::kInt32 || dtype == DataType::kInt64;
}

template <class T>
void divide(void* data, size_t count, int64_t divisor) {
  T* values = static_cast<T*>(data);
  for (size_t i = 0; i < count; ++i) {
    values[i] = static_cast<T>(static_cast<int64_t>(values[i]) / divisor);
  }
}

// Truncates toward zero, as scaling in float64 would if that were exact (it is not: 49 * (1 / 49)
// is below 1).
void divide_integers(DataType dtype, void* data, size_t count, int64_t divisor) {
  switch (dtype) {
    case DataType::kUint8:
      return divide<uint8_t>(data, count, divisor);
    case DataType::kInt8:
      return divide<int8_t>(data, count, divisor);
    case DataType::kInt16:
      return divide<int16_t>(data, count, divisor);
    case DataType::kInt32:
      return divide<int32_t>(data, count, divisor);
    case DataType::kInt64:
      return divide<int64_t>(data, count, divisor);
    default:
      return;
  }
}

void copy_bytes(void* destination, const void* source, size_t bytes) {
  if (bytes > 0 && destination != source) std::memmove(destination, source, bytes);
}

template <class Pieces>
bool adjacent(const Pieces& pieces) {
  for (size_t i = 1; i < pieces.size(); ++i) {
    if (pieces[i].input != pieces[i - 1].input + pieces[i - 1].bytes) return false;
    if (pieces[i].output != pieces[i - 1].output + pieces[i - 1].bytes) return false;
  }
  return true;
}

Status out_of_memory(const char* what, size_t bytes) {
  return Status(StatusCode::kUnavailable,
                "no memory for " + std::string(what) + " of " + std::to_string(bytes) +
                    " bytes; lower KHORUS_FUSION_THRESHOLD or gather less");
}

}  // namespace

CollectiveRunner::CollectiveRunner(const Options& options)
    : options_(options),
      backend_event_(upper_case(options.backend->name) + "_"),
      buffer_(options.fusion_limit_bytes),
      gather_buffer_(options.fusion_limit_bytes) {}

Status CollectiveRunner::run(const Job& job) {
  note_end(job);  // QUEUE
  Status status;
  switch (job.response.tensors.front().request.kind) {
    case OpKind::kAllreduce:
      status = run_allreduce(job);
      break;
    case OpKind::kBroadcast:
      status = run_broadcast(job);
      break;
    case OpKind::kAllgather:
      status = run_allgather(job);
      break;
    default:
      status = Status(StatusCode::kInternal, "an operation without data reached the data plane");
      break;
  }
  note_end(job);  // ALLREDUCE
  executed_.fetch_add(1, std::memory_order_relaxed);
  return status;
}

// ---- allreduce ----

Status CollectiveRunner::run_allreduce(const Job& job) {
  const wire::Request& request = job.response.tensors.front().request;
  const Scaling scaling = scaling_of(request);
  const DataType dtype = request.dtype;
  std::vector<Piece> pieces;
  pieces.reserve(job.works.size());
  size_t bytes = 0;
  for (const WorkStatePtr& work : job.works) {
    const WorkState::Operation& operation = work->operation();
    const size_t size = operation.output.bytes();
    if (size == 0) continue;
    pieces.push_back({static_cast<const std::byte*>(operation.input.data),
                      static_cast<std::byte*>(operation.output.data), size,
                      size / element_size(dtype)});
    bytes += size;
  }
  if (bytes == 0) return Status();
  bytes_reduced_.fetch_add(bytes, std::memory_order_relaxed);

  khorus_op op = operation_of(job);
  op.count = bytes / element_size(dtype);
  if (adjacent(pieces)) {
    std::byte* const output = pieces.front().output;
    op.input = pieces.front().input;
    op.output = output;
    if (scaling.before != 1.0) {
      base::copy_scaled(dtype, output, op.input, op.count, scaling.before);
      op.input = output;
    }
    Status status = run_on_backend(job, op);
    if (status.ok()) apply(scaling, dtype, output, op.count);
    return status;
  }

  auto* const buffer = static_cast<std::byte*>(buffer_.reserve(bytes));
  if (buffer == nullptr) return out_of_memory("a fusion buffer", bytes);
  note_begin(job, "MEMCPY_IN_FUSION_BUFFER");
  std::byte* at = buffer;
  for (const Piece& piece : pieces) {
    if (scaling.before == 1.0) {
      copy_bytes(at, piece.input, piece.bytes);
    } else {
      base::copy_scaled(dtype, at, piece.input, piece.count, scaling.before);
    }
    at += piece.bytes;
  }
  note_end(job);
  op.input = buffer;
  op.output = buffer;
  Status status = run_on_backend(job, op);
  if (!status.ok()) return status;
  note_begin(job, "MEMCPY_OUT_FUSION_BUFFER");
  at = buffer;
  for (const Piece& piece : pieces) {
    if (scaling.after == 1.0) {
      copy_bytes(piece.output, at, piece.bytes);
    } else {
      base::copy_scaled(dtype, piece.output, at, piece.count, scaling.after);
    }
    if (scaling.divisor != 1) divide_integers(dtype, piece.output, piece.count, scaling.divisor);
    at += piece.bytes;
  }
  note_end(job);
  buffer_.trim();
  return status;
}

CollectiveRunner::Scaling CollectiveRunner::scaling_of(const wire::Request& request) const {
  Scaling scaling{request.prescale, request.postscale, 1};
  if (request.op != ReduceOp::kAverage) return scaling;
  if (is_integer(request.dtype) && request.postscale == 1.0) {
    scaling.divisor = options_.size;
  } else {
    scaling.after = request.postscale / options_.size;
  }
  return scaling;
}

void CollectiveRunner::apply(const Scaling& scaling, DataType dtype, void* data, size_t count) {
  if (scaling.after != 1.0) base::scale(dtype, data, count, scaling.after);
  if (scaling.divisor != 1) divide_integers(dtype, data, count, scaling.divisor);
}

// ---- broadcast ----

Status CollectiveRunner::run_broadcast(const Job& job) {
  const wire::Request& request = job.response.tensors.front().request;
  const bool root = request.root_rank == options_.rank;
  std::vector<Piece> pieces;
  pieces.reserve(job.works.size());
  size_t bytes = 0;
  for (const WorkStatePtr& work : job.works) {
    const WorkState::Operation& operation = work->operation();
    const size_t size = operation.output.bytes();
    if (size == 0) continue;
    auto* const output = static_cast<std::byte*>(operation.output.data);
    const auto* const input = static_cast<const std::byte*>(operation.input.data);
    pieces.push_back({root ? input : output, output, size, size / element_size(request.dtype)});
    bytes += size;
  }
  if (bytes == 0) return Status();

  khorus_op op = operation_of(job);
  op.count = bytes / element_size(request.dtype);
  if (adjacent(pieces)) {
    op.input = pieces.front().input;
    op.output = pieces.front().output;
    return run_on_backend(job, op);
  }
  auto* const buffer = static_cast<std::byte*>(buffer_.reserve(bytes));
  if (buffer == nullptr) return out_of_memory("a fusion buffer", bytes);
  std::byte* at = buffer;
  if (root) {
    note_begin(job, "MEMCPY_IN_FUSION_BUFFER");
    for (const Piece& piece : pieces)
      copy_bytes(std::exchange(at, at + piece.bytes), piece.input, piece.bytes);
    note_end(job);
  }
  op.input = buffer;
  op.output = buffer;
  Status status = run_on_backend(job, op);
  if (!status.ok()) return status;
  note_begin(job, "MEMCPY_OUT_FUSION_BUFFER");
  at = buffer;
  for (const Piece& piece : pieces) {
    copy_bytes(piece.output, root ? piece.input : at, piece.bytes);
    at += piece.bytes;
  }
  note_end(job);
  buffer_.trim();
  return status;
}

// ---- allgather ----

namespace {

struct GatherPlan {
  size_t row_bytes = 0;
  size_t rows = 0;
  std::vector<uint64_t> counts;  // elements by rank
};

GatherPlan plan_of(const wire::ResponseTensor& tensor) {
  GatherPlan plan;
  size_t row_elements = 1;
  for (size_t i = 1; i < tensor.request.shape.size(); ++i) {
    row_elements *= static_cast<size_t>(tensor.request.shape[i]);
  }
  plan.row_bytes = row_elements * element_size(tensor.request.dtype);
  for (const int64_t extent : tensor.extents) {
    plan.rows += static_cast<size_t>(extent);
    plan.counts.push_back(static_cast<uint64_t>(extent) * row_elements);
  }
  return plan;
}

}  // namespace

Status CollectiveRunner::run_allgather(const Job& job) {
  std::vector<std::shared_ptr<void>> outputs;
  size_t total_bytes = 0;
  for (size_t i = 0; i < job.works.size(); ++i) {
    const wire::ResponseTensor& tensor = job.response.tensors[i];
    const GatherPlan plan = plan_of(tensor);
    const size_t bytes = plan.rows * plan.row_bytes;
    outputs.push_back(allocate_aligned(bytes));
    if (outputs.back() == nullptr) return out_of_memory("the output of an allgather", bytes);
    total_bytes += bytes;
    TensorView result;
    result.data = outputs.back().get();
    result.dtype = tensor.request.dtype;
    result.shape = tensor.request.shape;
    result.shape.front() = static_cast<int64_t>(plan.rows);
    result.owner = outputs.back();
    job.works[i]->set_gathered(std::move(result), tensor.extents);
  }
  if (total_bytes == 0) return Status();
  bytes_reduced_.fetch_add(total_bytes, std::memory_order_relaxed);
  if (job.works.size() > 1) return run_fused_allgather(job, outputs);

  const GatherPlan plan = plan_of(job.response.tensors.front());
  khorus_op op = operation_of(job);
  op.input = job.works.front()->operation().input.data;
  op.output = outputs.front().get();
  op.count = plan.counts[static_cast<size_t>(options_.rank)];
  op.counts = plan.counts.data();
  return run_on_backend(job, op);
}

// Every rank's parts of all tensors lie together in the gathered buffer.
Status CollectiveRunner::run_fused_allgather(const Job& job,
                                             const std::vector<std::shared_ptr<void>>& outputs) {
  const size_t element_bytes = element_size(job.response.tensors.front().request.dtype);
  const auto ranks = static_cast<size_t>(options_.size);
  const auto self = static_cast<size_t>(options_.rank);
  std::vector<GatherPlan> plans;
  std::vector<uint64_t> counts(ranks, 0);
  for (const wire::ResponseTensor& tensor : job.response.tensors) {
    plans.push_back(plan_of(tensor));
    for (size_t r = 0; r < ranks; ++r) counts[r] += plans.back().counts[r];
  }
  const size_t total_bytes =
      std::accumulate(counts.begin(), counts.end(), size_t{0}) * element_bytes;
  const size_t own_bytes = counts[self] * element_bytes;
  auto* const packed = static_cast<std::byte*>(buffer_.reserve(own_bytes));
  auto* const gathered = static_cast<std::byte*>(gather_buffer_.reserve(total_bytes));
  if (gathered == nullptr) return out_of_memory("a fusion buffer", total_bytes);
  if (packed == nullptr && own_bytes > 0) return out_of_memory("a fusion buffer", own_bytes);

  note_begin(job, "MEMCPY_IN_FUSION_BUFFER");
  std::byte* at = packed;
  for (size_t t = 0; t < plans.size(); ++t) {
    const size_t bytes = plans[t].counts[self] * element_bytes;
    copy_bytes(at, job.works[t]->operation().input.data, bytes);
    at += bytes;
  }
  note_end(job);
  khorus_op op = operation_of(job);
  op.input = packed;
  op.output = gathered;
  op.count = counts[self];
  op.counts = counts.data();
  Status status = run_on_backend(job, op);
  if (!status.ok()) return status;

  note_begin(job, "MEMCPY_OUT_FUSION_BUFFER");
  std::vector<size_t> filled(plans.size(), 0);
  const std::byte* from = gathered;
  for (size_t r = 0; r < ranks; ++r) {
    for (size_t t = 0; t < plans.size(); ++t) {
      const size_t bytes = plans[t].counts[r] * element_bytes;
      copy_bytes(static_cast<std::byte*>(outputs[t].get()) + filled[t], from, bytes);
      filled[t] += bytes;
      from += bytes;
    }
  }
  note_end(job);
  buffer_.trim();
  gather_buffer_.trim();
  return status;
}

// ---- all ----

khorus_op CollectiveRunner::operation_of(const Job& job) const {
  const wire::Request& request = job.response.tensors.front().request;
  khorus_op op{};
  op.struct_size = sizeof op;
  op.kind = static_cast<uint8_t>(request.kind);
  op.dtype = static_cast<uint8_t>(request.dtype);
  op.reduce_op =
      static_cast<uint8_t>(request.op == ReduceOp::kAverage ? ReduceOp::kSum : request.op);
  op.device = static_cast<uint8_t>(request.device);
  op.root = request.root_rank;
  op.epoch = options_.epoch;
  return op;
}

Status CollectiveRunner::run_on_backend(const Job& job, khorus_op op) {
  if (options_.timeline->enabled()) {
    note_begin(job, backend_event_ + upper_case(to_string(static_cast<OpKind>(op.kind))));
  }
  op.sequence = sequence_++;
  khorus_error error{};
  error.rank = -1;
  const int32_t code = options_.backend->run(options_.comm, &op, &error);
  note_end(job);
  if (code == 0) return Status();
  return Status(static_cast<StatusCode>(code), error.message, error.rank);
}

void CollectiveRunner::note_begin(const Job& job, std::string_view event) {
  if (!options_.timeline->enabled()) return;
  for (const WorkStatePtr& work : job.works) options_.timeline->begin(work->name(), event);
}

void CollectiveRunner::note_end(const Job& job) {
  if (!options_.timeline->enabled()) return;
  for (const WorkStatePtr& work : job.works) options_.timeline->end(work->name());
}

}  // namespace khorus::runtime
