// libFuzzer: a protocol Node between neighbours that send anything that decodes.
//
// The input is a script: own submissions, ticks, frames as raw bytes and frames built from a small
// vocabulary (the same few names, ids and ranks, so that they meet). Whatever comes, the node must
// not crash or assert, every ticket gets exactly one outcome, what it is told to run is what it
// submitted, and after a fault there is nothing more.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/protocol/node.h"
#include "core/protocol/tensor_key.h"
#include "core/wire/codec.h"

namespace {

using namespace khorus;
using protocol::Node;
using protocol::NodeOptions;
using protocol::Output;

void require(bool condition) {
  if (!condition) std::abort();
}

// Frames and requests of a small vocabulary.
class Vocabulary {
 public:
  Vocabulary(FuzzedDataProvider* data, int size) : data_(data), size_(size) {}

  wire::Request request() {
    wire::Request request;
    request.kind = static_cast<OpKind>(data_->ConsumeIntegralInRange(0, kOpKindCount - 1));
    request.name = std::string(1, data_->ConsumeIntegralInRange('a', 'd'));
    request.shape = {request.kind == OpKind::kAllgather ? 0 : 4};
    add_parts(&request);
    if (data_->ConsumeBool()) {
      request.group = std::string(1, data_->ConsumeIntegralInRange('g', 'h'));
      request.group_size = data_->ConsumeIntegralInRange(0U, 3U);
    }
    if (data_->ConsumeIntegralInRange(0, 3) == 0) {
      request.process_set = data_->ConsumeIntegralInRange(1, 2);
    }
    if (data_->ConsumeIntegralInRange(0, 7) == 0) request.dtype = DataType::kInt64;
    return request;
  }
  wire::Message message() {
    switch (data_->ConsumeIntegralInRange(0, 5)) {
      case 0:
        return report();
      case 1:
        return decision();
      case 2:
        return wire::Fault{StatusCode::kPeerLost, rank(), "gone"};
      case 3:
        return wire::StallQuery{1, ranks()};
      case 4:
        return wire::StallAnswer{1, rank(), "x", 1, 1, 1};
      default:
        return wire::StallReport{"stall"};
    }
  }

 private:
  // What only some kinds have: roots and peers, members, the id of a set to remove.
  void add_parts(wire::Request* request) {
    switch (request->kind) {
      case OpKind::kBroadcast:
        request->root_rank = rank();
        break;
      case OpKind::kSendRecv:
        request->root_rank = rank();
        request->peer = rank();
        break;
      case OpKind::kJoin:
        request->name = protocol::kJoinName;
        request->shape.clear();
        break;
      case OpKind::kAddProcessSet:
        request->shape.clear();
        if (data_->ConsumeIntegralInRange(0, 7) != 0) request->members = ranks();
        break;
      case OpKind::kRemoveProcessSet:
        request->shape = {data_->ConsumeIntegralInRange<int64_t>(0, 2)};
        if (data_->ConsumeIntegralInRange(0, 7) == 0) request->shape[0] += int64_t{1} << 32;
        if (data_->ConsumeIntegralInRange(0, 7) == 0) request->shape.clear();
        break;
      default:
        break;
    }
  }
  int32_t rank() { return data_->ConsumeIntegralInRange(0, size_); }
  uint64_t id() { return data_->ConsumeIntegralInRange(0U, 6U); }
  wire::RankSet ranks() {
    const int32_t first = rank();
    return wire::RankSet::range(first, first + data_->ConsumeIntegralInRange(0, 2));
  }
  wire::Report report() {
    wire::Report report;
    report.applied_sequence = data_->ConsumeIntegralInRange(0U, 4U);
    while (data_->ConsumeBool()) report.cached_all.push_back(id());
    while (data_->ConsumeBool()) report.cached_some.push_back({id(), ranks()});
    while (data_->ConsumeBool()) {
      wire::Contribution contribution{request(), ranks(), {}, {}};
      const auto count = static_cast<size_t>(contribution.ranks.count());
      if (contribution.request.kind == OpKind::kAllgather) contribution.extents.assign(count, 2);
      if (contribution.request.kind == OpKind::kExchange) contribution.payloads.resize(count);
      report.contributions.push_back(std::move(contribution));
    }
    if (data_->ConsumeIntegralInRange(0, 3) == 0) report.joined = ranks();
    if (data_->ConsumeIntegralInRange(0, 7) == 0) report.leaving_reason = "done";
    report.drained = data_->ConsumeIntegralInRange(0, 7) == 0;
    return report;
  }
  wire::Decision decision() {
    wire::Decision decision;
    decision.sequence = data_->ConsumeIntegralInRange(1U, 4U);
    while (data_->ConsumeBool()) {
      wire::Response response;
      while (data_->ConsumeBool()) {
        wire::ResponseTensor tensor{request(), {}, {}};
        if (data_->ConsumeBool()) response.process_set = tensor.request.process_set;
        if (tensor.request.kind == OpKind::kJoin) tensor.request.root_rank = rank();
        if (tensor.request.kind == OpKind::kAllgather) {
          tensor.extents.assign(data_->ConsumeIntegralInRange<size_t>(0, 9), 2);
        }
        if (tensor.request.kind == OpKind::kExchange) {
          tensor.payloads.resize(data_->ConsumeIntegralInRange<size_t>(0, 9));
        }
        response.tensors.push_back(std::move(tensor));
      }
      while (data_->ConsumeBool()) response.cache_ids.push_back(id());
      if (data_->ConsumeBool()) response.code = StatusCode::kMismatch;
      if (data_->ConsumeBool()) response.failed_groups.push_back("g");
      decision.responses.push_back(std::move(response));
    }
    decision.shutdown = data_->ConsumeIntegralInRange(0, 7) == 0;
    decision.goodbye = data_->ConsumeIntegralInRange(0, 7) == 0;
    return decision;
  }

  FuzzedDataProvider* data_;
  int size_;
};

// The process around the node: hands out tickets and judges what comes back.
class Harness {
 public:
  Harness(const NodeOptions& options, FuzzedDataProvider* data)
      : options_(options), node_(options), data_(data), vocabulary_(data, options.size) {
    members_[kGlobalProcessSet] = static_cast<size_t>(options.size);
    neighbours_ = node_.children();
    if (node_.parent() >= 0) neighbours_.push_back(node_.parent());
    neighbours_.push_back(options.size - 1);  // perhaps a stranger
  }

  void run() {
    while (data_->remaining_bytes() > 0) step();
    node_.data_plane_failed(Status(StatusCode::kAborted, "the end"), now_);
    tick();
    // A goodbye or a fault has ended the epoch; either way nothing is left open.
    if (faulted_) require(open_.empty());
  }

 private:
  void step() {
    now_ += data_->ConsumeIntegralInRange(0, 1000);
    switch (data_->ConsumeIntegralInRange(0, 9)) {
      case 0:
      case 1:
        submit();
        break;
      case 2:
        tick();
        break;
      case 3:
        raw_frame();
        break;
      case 4:
        if (in_flight_ > 0) {
          node_.executions_finished(1, now_);
          --in_flight_;
        }
        break;
      case 5:
        if (data_->ConsumeIntegralInRange(0, 7) == 0) node_.leave("done", now_);
        break;
      case 6:
        if (shutdown_ && in_flight_ == 0) node_.drained(now_);
        break;
      case 7:
        if (data_->ConsumeIntegralInRange(0, 7) == 0) {
          node_.peer_closed(data_->PickValueInArray<int>({neighbours_.front()}), "reset", now_);
        }
        break;
      default:
        deliver({options_.epoch, vocabulary_.message()});
    }
  }

  void submit() {
    std::vector<protocol::Submission> submissions;
    const int count = data_->ConsumeIntegralInRange(1, 2);
    for (int i = 0; i < count; ++i) {
      protocol::Submission submission;
      submission.ticket = ++last_ticket_;
      submission.request = vocabulary_.request();
      open_[submission.ticket] = submission.request;
      has_joined_ |= submission.request.kind == OpKind::kJoin;
      submissions.push_back(std::move(submission));
    }
    // As the engine does: the members of one call have different names.
    if (count == 2 && submissions[0].request.name == submissions[1].request.name) {
      open_.erase(last_ticket_);
      submissions.pop_back();
    }
    node_.submit(std::move(submissions), now_);
  }

  void raw_frame() {
    const std::string text =
        data_->ConsumeBytesAsString(data_->ConsumeIntegralInRange<size_t>(0, 400));
    Result<wire::Frame> frame = wire::decode(std::as_bytes(std::span(text)));
    if (!frame.ok()) return;
    frame->epoch = options_.epoch;
    deliver(*frame);
  }

  // Over the wire, as a neighbour would have to.
  void deliver(const wire::Frame& frame) {
    const Result<wire::Frame> decoded = wire::decode(wire::encode(frame));
    if (!decoded.ok()) return;
    const size_t from = data_->ConsumeIntegralInRange<size_t>(0, neighbours_.size() - 1);
    node_.receive(neighbours_[from], *decoded, now_);
    if (data_->ConsumeBool()) tick();
  }

  void tick() {
    const Output output = node_.tick(now_);
    for (const auto& [to, frame] : output.frames) require(wire::decode(wire::encode(frame)).ok());
    for (const protocol::SetChange& change : output.set_changes) {
      require(change.members.contains(options_.rank));
      if (change.added) members_[change.id] = static_cast<size_t>(change.members.count());
    }
    for (const protocol::Completion& completion : output.completions) close(completion.ticket);
    for (const protocol::Execution& execution : output.executions) {
      require(members_.contains(execution.response.process_set));
      require(!faulted_);
      ++in_flight_;
      const auto& tensors = execution.response.tensors;
      require(!tensors.empty() && tensors.size() == execution.tickets.size());
      for (size_t i = 0; i < tensors.size(); ++i) {
        if (execution.tickets[i] == 0) {  // a rank that has joined takes part with zeros
          require(has_joined_);
          continue;
        }
        wire::Request mine = close(execution.tickets[i]);
        if (mine.kind == OpKind::kAlltoall) mine.shape.at(0) = 0;
        const wire::Request& theirs = tensors[i].request;
        require(theirs.name == mine.name && theirs.kind == mine.kind &&
                theirs.dtype == mine.dtype && theirs.shape == mine.shape &&
                theirs.process_set == mine.process_set && theirs.root_rank == mine.root_rank &&
                theirs.peer == mine.peer);
        require(tensors[i].extents.size() ==
                (mine.kind == OpKind::kAllgather ? members_[mine.process_set] : 0));
      }
    }
    for (const protocol::SetChange& change : output.set_changes) {
      if (!change.added) members_.erase(change.id);
    }
    require(!(faulted_ && output.fault));
    if (output.fault) faulted_ = true;
    if (output.shutdown) shutdown_ = true;
  }

  wire::Request close(uint64_t ticket) {
    const auto it = open_.find(ticket);
    require(it != open_.end());
    const wire::Request request = it->second;
    open_.erase(it);
    return request;
  }

  NodeOptions options_;
  Node node_;
  FuzzedDataProvider* data_;
  Vocabulary vocabulary_;
  std::vector<int> neighbours_;
  std::map<uint64_t, wire::Request> open_;  // tickets without an outcome
  uint64_t last_ticket_ = 0;
  protocol::TimeUs now_ = 0;
  std::map<ProcessSetId, size_t> members_;  // how many, of the sets that this rank is in
  int in_flight_ = 0;
  bool faulted_ = false;
  bool shutdown_ = false;
  bool has_joined_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  NodeOptions options;
  options.size = data.ConsumeIntegralInRange(1, 9);
  options.rank = data.ConsumeIntegralInRange(0, options.size - 1);
  options.fan_in = data.ConsumeIntegralInRange(1, 3);
  options.epoch = 1;
  options.cache_capacity = data.ConsumeIntegralInRange<size_t>(0, 3);
  options.stall_warning_us = data.ConsumeIntegralInRange(0, 2000);
  options.stall_shutdown_us = data.ConsumeBool() ? options.stall_warning_us * 2 : 0;
  Harness(options, &data).run();
  return 0;
}
