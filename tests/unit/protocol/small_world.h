// A few Nodes by hand: frames are delivered at once and in order.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/protocol/node.h"
#include "core/wire/codec.h"

namespace khorus::protocol {

inline wire::Request allreduce(const std::string& name) {
  wire::Request request;
  request.name = name;
  request.shape = {4};
  return request;
}

inline wire::Request send(int from, int to, int64_t count = 4) {
  wire::Request request;
  request.kind = OpKind::kSendRecv;
  request.name = std::to_string(from) + ">" + std::to_string(to);
  request.root_rank = from;
  request.peer = to;
  request.shape = {count};
  return request;
}

// `size` nodes with frames delivered at once, in order.
class World {
 public:
  explicit World(int size, int fan_in = 2) {
    for (int rank = 0; rank < size; ++rank) {
      NodeOptions options;
      options.rank = rank;
      options.size = size;
      options.epoch = 1;
      options.fan_in = fan_in;
      nodes_.push_back(std::make_unique<Node>(options));
      outputs_.emplace_back();
    }
  }
  Node& node(int rank) { return *nodes_[static_cast<size_t>(rank)]; }
  Output& output(int rank) { return outputs_[static_cast<size_t>(rank)]; }
  size_t largest_frame() const { return largest_frame_; }

  void submit(int rank, uint64_t ticket, const wire::Request& request) {
    node(rank).submit({{ticket, request, {}}}, now_);
  }
  void submit_everywhere(uint64_t ticket, const wire::Request& request) {
    for (size_t rank = 0; rank < nodes_.size(); ++rank) {
      submit(static_cast<int>(rank), ticket, request);
    }
  }
  void pass(TimeUs time) { now_ += time; }
  // Until no frame is under way. What came out is gathered in output().
  void settle() {
    for (size_t rank = nodes_.size(); rank-- > 0;) tick_all(static_cast<int>(rank));
    while (!flying_.empty()) {
      const auto [from, to, frame] = flying_.front();
      flying_.pop_front();
      node(to).receive(from, frame, now_);
      tick_all(to);
    }
  }

 private:
  struct Flying {
    int from;
    int to;
    wire::Frame frame;
  };
  void tick_all(int rank) {
    do {
      tick(rank);
    } while (node(rank).next_deadline() <= now_);
  }
  void tick(int rank) {
    Output fresh = node(rank).tick(now_);
    for (auto& [to, frame] : fresh.frames) {
      largest_frame_ = std::max(largest_frame_, wire::encode(frame).size());
      flying_.push_back({rank, to, std::move(frame)});
    }
    Output& all = output(rank);
    for (auto& execution : fresh.executions) all.executions.push_back(std::move(execution));
    for (auto& completion : fresh.completions) all.completions.push_back(std::move(completion));
    for (auto& change : fresh.set_changes) all.set_changes.push_back(std::move(change));
    if (fresh.fault) all.fault = fresh.fault;
    all.waited_for |= fresh.waited_for;
    all.shutdown |= fresh.shutdown;
    all.goodbye |= fresh.goodbye;
  }

  size_t largest_frame_ = 0;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<Output> outputs_;
  std::deque<Flying> flying_;
  TimeUs now_ = 0;
};

inline const Completion& completion_of(World& world, int rank, uint64_t ticket) {
  for (const Completion& completion : world.output(rank).completions) {
    if (completion.ticket == ticket) return completion;
  }
  static const Completion kNone{0, Status(StatusCode::kInternal, "not over"), {}, 0, -1};
  return kNone;
}

}  // namespace khorus::protocol
