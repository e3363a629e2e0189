// Operations that are not fused: those that move rows, send/recv, and Adasum; see
// collective_runner.h.
#include <cstring>
#include <numeric>
#include <utility>

#include "core/base/reduce.h"
#include "core/runtime/adasum.h"
#include "core/runtime/collective_runner.h"
#include "core/runtime/rows.h"

namespace khorus::runtime {
namespace {

// Memory for `rows` rows, as the result of a work.
TensorView result_of(const wire::Request& request, int64_t rows) {
  TensorView result;
  result.dtype = request.dtype;
  result.shape = request.shape;
  result.shape.front() = rows;
  result.owner = allocate_aligned(result.bytes());
  result.data = result.owner.get();
  return result;
}

}  // namespace

Status CollectiveRunner::run_adasum(const Job& job) {
  const wire::Request& request = job.response.tensors.front().request;
  const WorkState::Operation& operation = job.works.front()->operation();
  const size_t count = operation.output.bytes() / element_size(request.dtype);
  if (count == 0) return Status();
  bytes_reduced_.fetch_add(operation.output.bytes(), std::memory_order_relaxed);
  base::copy_scaled(request.dtype, operation.output.data, operation.input.data, count,
                    request.prescale);
  AdasumGroup group{options_.rank, options_.size, {}};
  group.swap = [&](int peer, DataType dtype, const void* send, size_t send_count, void* receive,
                   size_t receive_count) {
    if (send_count == 0 && receive_count == 0) {
      ++sequence_;  // other pairs have something to swap
      return Status();
    }
    khorus_op op = operation_of(job);
    op.kind = static_cast<uint8_t>(OpKind::kSendRecv);
    op.dtype = static_cast<uint8_t>(dtype);
    op.reduce_op = static_cast<uint8_t>(ReduceOp::kSum);
    op.input = send;
    op.count = send_count;
    op.output = receive;
    op.recv_count = receive_count;
    op.peer = peer;
    return run_on_backend(job, op);
  };
  Status status = adasum(group, request.dtype, operation.output.data, count);
  if (status.ok() && request.postscale != 1.0) {
    base::scale(request.dtype, operation.output.data, count, request.postscale);
  }
  return status;
}

// How many rows come from whom travels first, on the data plane: it is as many numbers as there are
// pairs of ranks.
Status CollectiveRunner::run_alltoall(const Job& job) {
  const wire::Request& request = job.response.tensors.front().request;
  WorkState& work = *job.works.front();
  const std::vector<int64_t>& splits = work.operation().splits;
  std::vector<int64_t> received(splits.size());
  const std::vector<uint64_t> ones(splits.size(), 1);
  khorus_op op = operation_of(job);
  op.dtype = static_cast<uint8_t>(DataType::kInt64);
  op.input = splits.data();
  op.count = splits.size();
  op.counts = ones.data();
  op.recv_counts = ones.data();
  op.output = received.data();
  if (Status status = run_on_backend(job, op); !status.ok()) return status;

  const uint64_t row = elements_per_row(request.shape);
  const std::vector<uint64_t> send_counts = elements_of(splits, row);
  const std::vector<uint64_t> recv_counts = elements_of(received, row);
  TensorView result =
      result_of(request, std::accumulate(received.begin(), received.end(), int64_t{0}));
  if (result.data == nullptr) return out_of_memory("the output of an alltoall", result.bytes());
  bytes_reduced_.fetch_add(result.bytes(), std::memory_order_relaxed);
  op = operation_of(job);
  op.input = work.operation().input.data;
  op.count = total(send_counts);
  op.counts = send_counts.data();
  op.recv_counts = recv_counts.data();
  op.output = result.data;
  work.set_gathered(std::move(result), std::move(received));
  return row == 0 ? Status() : run_on_backend(job, op);
}

Status CollectiveRunner::run_reducescatter(const Job& job) {
  const wire::Request& request = job.response.tensors.front().request;
  WorkState& work = *job.works.front();
  const Scaling scaling = scaling_of(request, options_.size);
  const std::vector<int64_t> rows = scattered_rows(request.shape.front(), options_.size);
  const std::vector<uint64_t> counts = elements_of(rows, elements_per_row(request.shape));
  TensorView result = result_of(request, rows[static_cast<size_t>(options_.rank)]);
  if (result.data == nullptr) return out_of_memory("the output of a reducescatter", result.bytes());
  khorus_op op = operation_of(job);
  op.input = work.operation().input.data;
  op.output = result.data;
  op.count = total(counts);
  op.counts = counts.data();
  const size_t count = counts[static_cast<size_t>(options_.rank)];
  const size_t bytes = op.count * element_size(request.dtype);
  bytes_reduced_.fetch_add(bytes, std::memory_order_relaxed);
  if (scaling.before != 1.0 && bytes > 0) {
    void* const scaled = buffer_.reserve(bytes);
    if (scaled == nullptr) return out_of_memory("a scaled input", bytes);
    base::copy_scaled(request.dtype, scaled, op.input, op.count, scaling.before);
    op.input = scaled;
  }
  Status status = bytes == 0 ? Status() : run_on_backend(job, op);
  if (status.ok()) apply(scaling, request.dtype, result.data, count);
  buffer_.trim();
  work.set_gathered(std::move(result), {});
  return status;
}

Status CollectiveRunner::run_send_recv(const Job& job) {
  const wire::Request& request = job.response.tensors.front().request;
  const WorkState::Operation& operation = job.works.front()->operation();
  const int sender = group_rank(request.root_rank);
  const int receiver = group_rank(request.peer);
  const bool sends = sender == options_.rank;
  const auto count = static_cast<uint64_t>(element_count(request.shape));
  if (count == 0) return Status();
  khorus_op op = operation_of(job);
  op.peer = sends ? receiver : sender;
  op.input = sends ? operation.input.data : nullptr;
  op.count = sends ? count : 0;
  op.output = sends ? nullptr : operation.output.data;
  op.recv_count = sends ? 0 : count;
  return run_on_backend(job, op);
}

}  // namespace khorus::runtime
