// See value.h.
#include "tests/sim/checkers/value.h"

#include <numeric>

#include "core/protocol/tensor_key.h"

namespace khorus::sim {
namespace {

// The checker's own idea of what may travel together, not the planner's.
bool may_be_fused(const wire::Request& a, const wire::Request& b) {
  const bool fusable_kind = a.kind == OpKind::kAllreduce || a.kind == OpKind::kBroadcast;
  return fusable_kind && a.kind == b.kind && a.dtype == b.dtype && a.op == b.op &&
         a.device == b.device && a.process_set == b.process_set && a.root_rank == b.root_rank &&
         a.prescale == b.prescale && a.postscale == b.postscale;
}

int64_t bytes_of(const wire::Request& request) {
  return element_count(request.shape) * static_cast<int64_t>(element_size(request.dtype));
}

}  // namespace

void Value::begin(const Scenario& scenario, const Workload&) {
  book_.begin(scenario);
  threshold_bytes_ = scenario.node.fusion_threshold_bytes;
  pending_.resize(static_cast<size_t>(scenario.ranks));
}

void Value::submitted(int rank, const Origin& origin,
                      std::span<const protocol::Submission> submissions, TimeUs) {
  book_.submitted(rank, origin, submissions);
  for (const protocol::Submission& submission : submissions) {
    pending_[static_cast<size_t>(rank)].emplace(submission.ticket, submission);
  }
}

void Value::ticked(int rank, const protocol::Output& output, const NodeView&, TimeUs now) {
  book_.learn_sets(rank, output);
  for (const protocol::Execution& execution : output.executions) {
    check_execution(rank, execution, now);
  }
  for (const protocol::Completion& completion : output.completions) {
    check_completion(rank, completion, now);
  }
}

void Value::check_execution(int rank, const protocol::Execution& execution, TimeUs now) {
  const wire::Response& response = execution.response;
  if (response.code != StatusCode::kOk || response.tensors.empty() ||
      (execution.meets_only ? 0 : response.tensors.size()) != execution.tickets.size()) {
    fail(at(rank, now) + "an execution without tensors, or with another number of tickets");
    return;
  }
  check_fusion(rank, response, now);
  for (size_t i = 0; i < execution.tickets.size(); ++i) {
    check_tensor(rank, response.tensors[i], execution.tickets[i], now);
  }
}

void Value::check_fusion(int rank, const wire::Response& response, TimeUs now) {
  if (response.tensors.size() < 2) return;
  int64_t bytes = 0;
  for (const wire::ResponseTensor& tensor : response.tensors) {
    bytes += bytes_of(tensor.request);
    if (!may_be_fused(response.tensors.front().request, tensor.request)) {
      fail(at(rank, now) + tensor.request.name + " was fused with what it cannot be fused with");
    }
  }
  if (bytes > threshold_bytes_) {
    fail(at(rank, now) + std::to_string(bytes) + " bytes were fused, the threshold is " +
         std::to_string(threshold_bytes_));
  }
}

void Value::check_tensor(int rank, const wire::ResponseTensor& tensor, uint64_t ticket,
                         TimeUs now) {
  auto& pending = pending_[static_cast<size_t>(rank)];
  const auto it = pending.find(ticket);
  if (it == pending.end()) return;  // the exactly-once checker complains
  wire::Request mine = it->second.request;
  pending.erase(it);
  const std::string what = at(rank, now) + "ticket " + std::to_string(ticket);
  if (!protocol::runs_on_data_plane(mine.kind))
    fail(what + " has no data and was given to the data plane");
  if (mine.kind == OpKind::kAllgather) {
    const int64_t extent = mine.shape.at(0);
    const size_t position = book_.position(mine.process_set, rank);
    mine.shape[0] = 0;
    if (tensor.extents.size() != book_.members(mine.process_set).size()) {
      fail(what + " has " + std::to_string(tensor.extents.size()) + " extents");
    } else if (tensor.extents[position] != extent) {
      fail(what + " submitted extent " + std::to_string(extent) + " and was given " +
           std::to_string(tensor.extents[position]));
    }
  }
  if (mine.kind == OpKind::kAlltoall) mine.shape.at(0) = 0;
  if (!(tensor.request == mine)) {
    fail(what + " submitted " + mine.name + " " + khorus::to_string(mine.shape) +
         " and was given " + tensor.request.name + " " + khorus::to_string(tensor.request.shape));
  }
}

void Value::check_completion(int rank, const protocol::Completion& completion, TimeUs now) {
  auto& pending = pending_[static_cast<size_t>(rank)];
  const auto it = pending.find(completion.ticket);
  if (it == pending.end()) return;
  const protocol::Submission mine = std::move(it->second);
  pending.erase(it);
  if (!completion.status.ok()) return;
  const std::string what = at(rank, now) + "ticket " + std::to_string(completion.ticket);
  if (mine.request.kind == OpKind::kExchange) {
    const ProcessSetId set = mine.request.process_set;
    if (completion.payloads.size() != book_.members(set).size()) {
      fail(what + " exchanged " + std::to_string(completion.payloads.size()) + " payloads");
    } else if (completion.payloads[book_.position(set, rank)] != mine.payload) {
      fail(what + " was given other bytes of its own than it sent");
    }
  } else if (protocol::runs_on_data_plane(mine.request.kind)) {
    fail(what + " was done well without the data plane");
  }
}

}  // namespace khorus::sim
