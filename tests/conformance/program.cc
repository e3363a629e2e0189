// See program.h.
#include "tests/conformance/program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "tests/conformance/reference.h"

namespace khorus::conformance {
namespace {

constexpr OpKind kKinds[] = {OpKind::kAllreduce, OpKind::kAllgather,     OpKind::kBroadcast,
                             OpKind::kAlltoall,  OpKind::kReducescatter, OpKind::kSendRecv,
                             OpKind::kSendRecv};
constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct};
// Elements: none, small messages, large ones.
constexpr uint64_t kCounts[] = {0, 1, 3, 100, 2000, 20000};

Bytes values_of(const Step& step, size_t count, int rank) {
  return make_values(step.dtype, count, 1000 * step.sequence + static_cast<uint64_t>(rank));
}

uint64_t total(const std::vector<uint64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

// What one rank gives, what it must get, and where that comes to lie.
class Exchange {
 public:
  Exchange(Member& member, const Step& step) : member_(member), step_(step) {}

  Status allreduce() {
    begin(step_.counts[0]);
    reduce(step_.counts[0], 0, step_.counts[0]);
    output_ = input_;
    return member_.allreduce({step_.dtype, step_.op, step_.counts[0]}, output_.data(),
                             output_.data());
  }
  Status allgather() {
    begin(step_.counts[rank()]);
    for (int r = 0; r < member_.size(); ++r) {
      append(values_of(step_, step_.counts[static_cast<size_t>(r)], r), 0, ~size_t{0});
    }
    output_.resize(expected_.size());
    return member_.allgather(step_.dtype, step_.counts, input_.data(), output_.data());
  }
  Status broadcast() {
    begin(step_.counts[0]);
    expected_ = values_of(step_, step_.counts[0], step_.first);
    output_.resize(expected_.size());
    return member_.broadcast(step_.dtype, step_.counts[0], step_.first, input_.data(),
                             output_.data());
  }
  Status alltoall() {
    const auto sends_of = [&](int from) {
      std::vector<uint64_t> counts;
      for (int to = 0; to < member_.size(); ++to) counts.push_back(step_.count_to(from, to));
      return counts;
    };
    const auto mine = static_cast<std::ptrdiff_t>(rank());
    const std::vector<uint64_t> sends = sends_of(member_.rank());
    std::vector<uint64_t> received;
    for (int r = 0; r < member_.size(); ++r) {
      const std::vector<uint64_t> theirs = sends_of(r);
      const uint64_t before = std::accumulate(theirs.begin(), theirs.begin() + mine, uint64_t{0});
      received.push_back(theirs[rank()]);
      append(values_of(step_, total(theirs), r), before, received.back());
    }
    begin(total(sends));
    output_.resize(expected_.size());
    return member_.alltoall(step_.dtype, sends, received, input_.data(), output_.data());
  }
  Status reducescatter() {
    begin(total(step_.counts));
    const auto end = step_.counts.begin() + static_cast<std::ptrdiff_t>(rank());
    reduce(total(step_.counts), std::accumulate(step_.counts.begin(), end, uint64_t{0}),
           step_.counts[rank()]);
    output_.resize(expected_.size());
    return member_.reducescatter({step_.dtype, step_.op, step_.counts}, input_.data(),
                                 output_.data());
  }
  Status sendrecv() {
    const int me = member_.rank();
    if (me != step_.first && me != step_.second) return {};
    const int peer = step_.first + step_.second - me;
    begin(step_.count_to(me, peer));
    expected_ = values_of(step_, step_.count_to(peer, me), peer);
    output_.resize(expected_.size());
    return member_.sendrecv({step_.dtype, peer, step_.count_to(me, peer), step_.count_to(peer, me)},
                            input_.data(), output_.data());
  }
  void check() const {
    const bool is_reduced = !addends_.empty();
    const ::testing::AssertionResult right =
        is_reduced
            ? is_promised(member_.backend(), {step_.dtype, step_.op, addends_, expected_}, output_)
            : ::testing::AssertionResult(output_ == expected_);
    EXPECT_TRUE(right) << to_string(step_.kind) << " of " << to_string(step_.dtype) << ", step "
                       << step_.sequence << ", rank " << member_.rank();
  }

 private:
  size_t rank() const { return static_cast<size_t>(member_.rank()); }
  void begin(size_t count) { input_ = values_of(step_, count, member_.rank()); }
  // Elements `begin` to `begin + mine` of the reduction of everybody's `count`.
  void reduce(size_t count, size_t begin, size_t mine) {
    for (int r = 0; r < member_.size(); ++r) {
      expected_.clear();
      append(values_of(step_, count, r), begin, mine);
      addends_.push_back(expected_);
    }
    expected_ = reduce_in_rank_order(step_.dtype, step_.op, addends_);
  }
  // Elements `begin` to `begin + count` of the values, or all there are.
  void append(const Bytes& values, size_t begin, size_t count) {
    const size_t width = element_size(step_.dtype);
    const size_t from = begin * width;
    const size_t bytes = std::min(values.size() / width - begin, count) * width;
    expected_.insert(expected_.end(), values.begin() + static_cast<std::ptrdiff_t>(from),
                     values.begin() + static_cast<std::ptrdiff_t>(from + bytes));
  }

  Member& member_;
  const Step& step_;
  Bytes input_;
  Bytes output_;
  Bytes expected_;
  std::vector<Bytes> addends_;  // of a reduction, by rank
};

}  // namespace

uint64_t Step::count_to(int from, int to) const {
  return counts[static_cast<size_t>(from + 2 * to) % counts.size()];
}

std::vector<Step> make_program(uint64_t seed, int group_size, size_t steps,
                               uint64_t last_sequence) {
  std::mt19937_64 random(seed);
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % limit); };
  const auto a_rank = [&] { return static_cast<int>(below(static_cast<size_t>(group_size))); };
  std::vector<Step> program;
  uint64_t sequence = last_sequence;
  while (program.size() < steps) {
    sequence += 1 + below(5);
    Step step{.kind = kKinds[below(std::size(kKinds))],
              .dtype = static_cast<DataType>(below(kDataTypeCount)),
              .op = kOps[below(std::size(kOps))],
              .sequence = sequence,
              .first = a_rank(),
              .second = a_rank(),
              .counts = {}};
    if (step.kind == OpKind::kSendRecv && step.first == step.second) continue;
    for (int r = 0; r < group_size; ++r) {
      step.counts.push_back(kCounts[std::min(below(std::size(kCounts)), below(8))]);
    }
    program.push_back(step);
  }
  return program;
}

Status run_step(Member& member, const Step& step) {
  Exchange exchange(member, step);
  member.set_sequence(step.sequence);
  const Status status = [&] {
    switch (step.kind) {
      case OpKind::kAllreduce:
        return exchange.allreduce();
      case OpKind::kAllgather:
        return exchange.allgather();
      case OpKind::kBroadcast:
        return exchange.broadcast();
      case OpKind::kAlltoall:
        return exchange.alltoall();
      case OpKind::kReducescatter:
        return exchange.reducescatter();
      default:
        return exchange.sendrecv();
    }
  }();
  if (status.ok()) exchange.check();
  return status;
}

Status run_program(Member& member, const std::vector<Step>& program) {
  for (const Step& step : program) {
    if (Status status = run_step(member, step); !status.ok()) return status;
  }
  return {};
}

}  // namespace khorus::conformance
