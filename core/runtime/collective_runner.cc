// See collective_runner.h.
#include "core/runtime/collective_runner.h"

#include <cstring>
#include <numeric>
#include <utility>

#include "core/base/reduce.h"
#include "core/base/upper_case.h"
#include "core/runtime/backend_call.h"

namespace khorus::runtime {
namespace {

template <class Pieces>
bool adjacent(const Pieces& pieces) {
  for (size_t i = 1; i < pieces.size(); ++i) {
    if (pieces[i].input != pieces[i - 1].input + pieces[i - 1].bytes) return false;
    if (pieces[i].output != pieces[i - 1].output + pieces[i - 1].bytes) return false;
  }
  return true;
}

}  // namespace

CollectiveRunner::CollectiveRunner(const Options& options)
    : options_(options),
      backend_event_(base::upper_case(options.backend->name) + "_"),
      buffer_(options.fusion_limit_bytes),
      gather_buffer_(options.fusion_limit_bytes) {}

Status CollectiveRunner::run(const Job& job) {
  note_end(job);  // QUEUE
  sequence_ = job.sequence;
  Status status;
  for (const WorkStatePtr& work : job.works) {
    const TensorView& input = work->operation().input;
    if (input.data == nullptr && input.bytes() > 0 && work->operation().output.data == nullptr) {
      return out_of_memory("the zeros of a rank that has joined", input.bytes());
    }
  }
  switch (job.response.tensors.front().request.kind) {
    case OpKind::kAllreduce: {
      const bool is_adasum = job.response.tensors.front().request.op == ReduceOp::kAdasum;
      status = is_adasum ? run_adasum(job) : run_allreduce(job);
      break;
    }
    case OpKind::kBroadcast:
      status = run_broadcast(job);
      break;
    case OpKind::kAllgather:
      status = run_allgather(job);
      break;
    case OpKind::kAlltoall:
      status = run_alltoall(job);
      break;
    case OpKind::kReducescatter:
      status = run_reducescatter(job);
      break;
    case OpKind::kSendRecv:
      status = run_send_recv(job);
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
  Scaling scaling = scaling_of(request, options_.size);
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
  // While the sums are in its caches, and each on one rank only. 0 is the engine's.
  if (options_.backend->scales != 0 && scaling.after != 0.0) {
    op.scale = std::exchange(scaling.after, 1.0);
  }
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
    if (scaling.divisor != 1) base::divide(dtype, piece.output, piece.count, scaling.divisor);
    at += piece.bytes;
  }
  note_end(job);
  buffer_.trim();
  return status;
}

void CollectiveRunner::apply(const Scaling& scaling, DataType dtype, void* data, size_t count) {
  if (scaling.after != 1.0) base::scale(dtype, data, count, scaling.after);
  if (scaling.divisor != 1) base::divide(dtype, data, count, scaling.divisor);
}

// ---- broadcast ----

Status CollectiveRunner::run_broadcast(const Job& job) {
  const wire::Request& request = job.response.tensors.front().request;
  const bool root = group_rank(request.root_rank) == options_.rank;
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

// ---- all ----

khorus_op CollectiveRunner::operation_of(const Job& job) const {
  return runtime::operation_of(job.response.tensors.front().request, options_.ranks,
                               options_.epoch);
}

int CollectiveRunner::group_rank(int global_rank) const {
  return runtime::group_rank(options_.ranks, global_rank);
}

Status CollectiveRunner::out_of_memory(const char* what, size_t bytes) {
  return Status(StatusCode::kUnavailable,
                "no memory for " + std::string(what) + " of " + std::to_string(bytes) +
                    " bytes; lower KHORUS_FUSION_THRESHOLD or gather less");
}

Status CollectiveRunner::run_on_backend(const Job& job, khorus_op op) {
  if (options_.timeline->enabled()) {
    note_begin(job, backend_event_ + base::upper_case(to_string(static_cast<OpKind>(op.kind))));
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
