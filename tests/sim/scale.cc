// See scale.h.
#include "tests/sim/scale.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <string>

#include "core/base/assert.h"
#include "core/protocol/node.h"
#include "core/protocol/topology.h"
#include "core/wire/codec.h"

namespace khorus::sim {
namespace {

// Every node of a world, with frames delivered in the order they were sent.
class InstantWorld {
 public:
  InstantWorld(int ranks, const ScaleOptions& options) : options_(options) {
    for (int rank = 0; rank < ranks; ++rank) {
      protocol::NodeOptions node;
      node.rank = rank;
      node.size = ranks;
      node.fan_in = options.fan_in;
      nodes_.push_back(std::make_unique<protocol::Node>(node));
    }
  }

  // Every rank submits the step's tensors and runs what is agreed. At the busiest process.
  RoundCost round() {
    costs_.assign(nodes_.size(), {});
    for (size_t rank = 0; rank < nodes_.size(); ++rank) {
      for (int i = 0; i < options_.tensors; ++i) {
        nodes_[rank]->submit({{next_ticket_++, request(i), {}}}, now_);
      }
    }
    // Leaves first, as they are done first.
    for (size_t rank = nodes_.size(); rank-- > 0;) tick(rank);
    while (!flying_.empty()) deliver();
    now_ += 1'000'000;
    RoundCost most;
    for (const RoundCost& cost : costs_) {
      most.messages = std::max(most.messages, cost.messages);
      most.bytes = std::max(most.bytes, cost.bytes);
    }
    return most;
  }

 private:
  struct Flying {
    int from = 0;
    int to = 0;
    wire::Bytes bytes;
  };

  static wire::Request request(int index) {
    wire::Request request;
    request.name = "layers." + std::to_string(index / 4) + ".weight" + std::to_string(index % 4);
    request.op = ReduceOp::kAverage;
    request.shape = {1024, 1024};
    return request;
  }

  void tick(size_t rank) {
    protocol::Output output = nodes_[rank]->tick(now_);
    if (!output.executions.empty()) {
      nodes_[rank]->executions_finished(static_cast<int>(output.executions.size()), now_);
    }
    for (auto& [to, frame] : output.frames) {
      wire::Bytes bytes = wire::encode(frame);
      count(rank, bytes.size());
      count(static_cast<size_t>(to), bytes.size());
      flying_.push_back({static_cast<int>(rank), to, std::move(bytes)});
    }
  }

  void deliver() {
    const Flying frame = std::move(flying_.front());
    flying_.pop_front();
    const Result<wire::Frame> decoded = wire::decode(frame.bytes);
    KHORUS_ASSERT(decoded.ok(), "a frame did not survive encoding");
    nodes_[static_cast<size_t>(frame.to)]->receive(frame.from, *decoded, now_);
    tick(static_cast<size_t>(frame.to));
  }

  void count(size_t rank, size_t bytes) {
    ++costs_[rank].messages;
    costs_[rank].bytes += bytes;
  }

  ScaleOptions options_;
  std::vector<std::unique_ptr<protocol::Node>> nodes_;
  std::deque<Flying> flying_;
  std::vector<RoundCost> costs_;
  uint64_t next_ticket_ = 1;
  protocol::TimeUs now_ = 0;
};

}  // namespace

ScaleRow measure_scale(int ranks, const ScaleOptions& options) {
  InstantWorld world(ranks, options);
  ScaleRow row;
  row.ranks = ranks;
  row.depth = protocol::Topology::depth(ranks, options.fan_in);
  row.first = world.round();
  world.round();
  row.cached = world.round();
  return row;
}

void print_scale(const std::vector<ScaleRow>& rows, const ScaleOptions& options, std::FILE* out) {
  std::fprintf(out, "# %d tensors, fan-in %d; at the busiest process, sent and received\n",
               options.tensors, options.fan_in);
  std::fprintf(out, "%6s %6s | %14s %12s | %15s %13s\n", "ranks", "depth", "first messages",
               "first bytes", "cached messages", "cached bytes");
  for (const ScaleRow& row : rows) {
    std::fprintf(out, "%6d %6d | %14llu %12llu | %15llu %13llu\n", row.ranks, row.depth,
                 static_cast<unsigned long long>(row.first.messages),
                 static_cast<unsigned long long>(row.first.bytes),
                 static_cast<unsigned long long>(row.cached.messages),
                 static_cast<unsigned long long>(row.cached.bytes));
  }
}

}  // namespace khorus::sim
