// Frames of every kind with every field in use: for codec tests and as seeds of the fuzzers'
// corpus.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/wire/message.h"

namespace khorus::wire {

inline Bytes bytes_of(const std::string& text) {
  Bytes bytes;
  for (char c : text) bytes.push_back(static_cast<std::byte>(c));
  return bytes;
}

inline Request full_request() {
  Request request;
  request.kind = OpKind::kBroadcast;
  request.dtype = DataType::kBool;
  request.op = ReduceOp::kProduct;
  request.device = DeviceKind::kCuda;
  request.process_set = 7;
  request.root_rank = 300;
  request.prescale = -0.5;
  request.postscale = 1e300;
  request.name = "layers.3.\"up\".weight \xc3\xa9";
  request.shape = {4096, 0, (int64_t{1} << 40)};
  request.group = "group";
  request.group_size = 3;
  return request;
}

inline Request allgather_request() {
  Request request;
  request.kind = OpKind::kAllgather;
  request.name = "rows";
  request.shape = {0, 16};
  return request;
}

inline Request exchange_request() {
  Request request;
  request.kind = OpKind::kExchange;
  request.name = "addresses";
  return request;
}

inline Request send_request() {
  Request request;
  request.kind = OpKind::kSendRecv;
  request.name = "3>1";
  request.shape = {2, 2};
  request.root_rank = 3;
  request.peer = 1;
  return request;
}

inline Request add_process_set_request() {
  Request request;
  request.kind = OpKind::kAddProcessSet;
  request.name = "add";
  request.members = RankSet::of({0, 1, 5, 900});
  return request;
}

inline Request remove_process_set_request() {
  Request request;
  request.kind = OpKind::kRemoveProcessSet;
  request.name = "remove";
  request.shape = {3};
  return request;
}

inline Request alltoall_request() {
  Request request;
  request.kind = OpKind::kAlltoall;
  request.name = "shuffled";
  request.process_set = 2;
  request.shape = {0, 8};
  return request;
}

inline Request reducescatter_request() {
  Request request;
  request.kind = OpKind::kReducescatter;
  request.name = "scattered";
  request.op = ReduceOp::kMax;
  request.shape = {9};
  return request;
}

// As the response says it: the root is the last rank that joined.
inline Request join_request() {
  Request request;
  request.kind = OpKind::kJoin;
  request.name = "khorus.internal/join";
  request.root_rank = 6;
  return request;
}

inline Report sample_report() {
  Report report;
  report.applied_sequence = 1234567;
  report.cached_all = {7, 8, 9, 3, (uint64_t{1} << 63)};
  report.cached_some = {{42, RankSet::of({1, 2, 5})}, {43, RankSet::single(0)}};
  report.contributions.push_back({full_request(), RankSet::of({0, 3}), {}, {}});
  report.contributions.push_back({allgather_request(), RankSet::of({1, 9}), {5, 0}, {}});
  report.contributions.push_back(
      {exchange_request(), RankSet::range(2, 3), {}, {bytes_of("10.0.0.1:99"), {}}});
  report.contributions.push_back({send_request(), RankSet::single(3), {}, {}});
  report.contributions.push_back({add_process_set_request(), RankSet::single(3), {}, {}});
  report.contributions.push_back({remove_process_set_request(), RankSet::single(3), {}, {}});
  report.contributions.push_back({alltoall_request(), RankSet::of({1, 9}), {}, {}});
  report.contributions.push_back({reducescatter_request(), RankSet::single(0), {}, {}});
  report.joined = RankSet::of({2, 4});
  report.leaving_reason = "shutdown() was called";
  report.leaving_rank = 3;
  report.drained = true;
  return report;
}

inline Decision sample_decision() {
  Decision decision;
  decision.sequence = 99;
  Response fused;
  fused.tensors.push_back({full_request(), {}, {}});
  fused.tensors.push_back({allgather_request(), {3, 0, 4}, {}});
  fused.process_set = 7;
  Response cached;
  cached.cache_ids = {5, 6, 4};
  Response error;
  error.code = StatusCode::kMismatch;
  error.error = "allreduce \"w\" has shape [2] on rank 0 and [3] on rank 1";
  error.failed_groups = {"group", "other"};
  error.tensors.push_back({full_request(), {}, {}});
  Response exchange;
  exchange.tensors.push_back({exchange_request(), {}, {bytes_of("a"), bytes_of("bc")}});
  decision.responses = {fused, cached, error, exchange};
  for (const Request& request :
       {send_request(), add_process_set_request(), remove_process_set_request(), alltoall_request(),
        reducescatter_request(), join_request()}) {
    Response& alone = decision.responses.emplace_back();
    alone.process_set = request.process_set;
    alone.tensors.push_back({request, {}, {}});
  }
  decision.shutdown = true;
  decision.shutdown_reason = "rank 3 called shutdown()";
  return decision;
}

// Named, so that a corpus can be written from them.
inline std::vector<std::pair<std::string, Frame>> sample_frames() {
  Decision goodbye;
  goodbye.sequence = 100;
  goodbye.goodbye = true;
  return {
      {"report", {3, sample_report()}},
      {"report_empty", {0, Report()}},
      {"decision", {1, sample_decision()}},
      {"decision_goodbye", {UINT64_MAX, goodbye}},
      {"fault", {2, Fault{StatusCode::kPeerLost, 5, "connection reset by peer"}}},
      {"fault_nobody", {2, Fault{StatusCode::kTimeout, -1, "stalled"}}},
      {"stall_query", {2, StallQuery{12, RankSet::of({0, 2, 3, 4, 1000})}}},
      {"stall_answer", {2, StallAnswer{12, 4, "allreduce \"w\"", 1500, 77, 2}}},
      {"stall_answer_nothing", {2, StallAnswer{13, 0, "", -1, 0, 0}}},
      {"stall_report", {2, StallReport{"stall: allreduce \"w\" has waited 60.0 s"}}},
  };
}

}  // namespace khorus::wire
