// See khorus/gradient_plan.h. Called by any thread.
#include "khorus/gradient_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "core/runtime/engine.h"

namespace khorus {
namespace {

constexpr uint64_t kAlignment = 64;
// A gradient that never came is placed after all others.
std::vector<GradientProfile> without_unknown_arrivals(std::vector<GradientProfile> gradients) {
  int64_t last = -1;
  for (const GradientProfile& gradient : gradients) last = std::max(last, gradient.arrival_us);
  for (GradientProfile& gradient : gradients) {
    if (gradient.arrival_us < 0) gradient.arrival_us = last + 1;
  }
  return gradients;
}

// Where the buckets of these gradients, which are in the order of arrival, begin. The time at which
// all before i are reduced is least if those before the last bucket are reduced as early as can be,
// so one pass from the first to the last finds it.
std::vector<size_t> cut(const std::vector<GradientProfile>& ordered, const TransferCost& cost) {
  // Of a bucket that has others after it.
  const double least_bytes = 10 * cost.latency_us * cost.bytes_per_us;
  const size_t count = ordered.size();
  std::vector<double> bytes_before(count + 1, 0);
  for (size_t i = 0; i < count; ++i) {
    bytes_before[i + 1] = bytes_before[i] + static_cast<double>(ordered[i].elements) *
                                                static_cast<double>(element_size(ordered[i].dtype));
  }
  const double start = static_cast<double>(ordered.front().arrival_us);
  std::vector<double> over(count + 1, std::numeric_limits<double>::infinity());
  std::vector<size_t> begin(count + 1, 0);
  over[0] = 0;
  for (size_t end = 1; end <= count; ++end) {
    const double there = static_cast<double>(ordered[end - 1].arrival_us) - start;
    for (size_t first = end; first-- > 0;) {
      const double bytes = bytes_before[end] - bytes_before[first];
      const bool large_enough = bytes >= least_bytes || end == count;
      const double time =
          std::max(over[first], there) + cost.latency_us + bytes / cost.bytes_per_us;
      if (large_enough && time < over[end]) {
        over[end] = time;
        begin[end] = first;
      }
      // Longer ones transfer more and start no earlier than this.
      if (there + bytes / cost.bytes_per_us > over[end]) break;
    }
  }
  std::vector<size_t> begins;
  for (size_t end = count; end > 0; end = begin[end]) begins.push_back(begin[end]);
  std::reverse(begins.begin(), begins.end());
  return begins;
}

}  // namespace

GradientPlan plan_gradients(const std::vector<GradientProfile>& profiles,
                            const TransferCost& asked) {
  const TransferCost cost{std::max(asked.latency_us, 0.0), std::max(asked.bytes_per_us, 1e-3)};
  const std::vector<GradientProfile> gradients = without_unknown_arrivals(profiles);
  std::vector<size_t> order(gradients.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return gradients[a].arrival_us < gradients[b].arrival_us;
  });
  std::map<DataType, std::vector<size_t>> by_type;
  for (const size_t index : order) {
    if (gradients[index].fits) by_type[gradients[index].dtype].push_back(index);
  }

  GradientPlan plan;
  for (const auto& [dtype, members] : by_type) {
    std::vector<GradientProfile> ordered;
    for (const size_t index : members) ordered.push_back(gradients[index]);
    std::vector<size_t> begins = cut(ordered, cost);
    begins.push_back(members.size());
    for (size_t b = 0; b + 1 < begins.size(); ++b) {
      GradientPlan::Bucket& bucket = plan.buckets.emplace_back();
      bucket.dtype = dtype;
      for (size_t i = begins[b]; i < begins[b + 1]; ++i) {
        bucket.gradients.push_back(members[i]);
        bucket.elements += ordered[i].elements;
      }
    }
  }
  std::stable_sort(plan.buckets.begin(), plan.buckets.end(), [&](const auto& a, const auto& b) {
    return gradients[a.gradients.back()].arrival_us < gradients[b.gradients.back()].arrival_us;
  });
  for (GradientPlan::Bucket& bucket : plan.buckets) {
    bucket.offset_bytes = plan.bytes;
    plan.bytes += bucket.elements * element_size(bucket.dtype);
    plan.bytes = (plan.bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  return plan;
}

// All are sums, because a rank that has joined gives zeros to sums: how many ranks take part, what
// a reduction costs (in nanoseconds and in picoseconds per byte), and of every gradient whether it
// does not fit and when it came.
GradientLearning learn_gradients(Engine& engine, const std::string& name,
                                 std::vector<GradientProfile> gradients, ProcessSetId process_set) {
  GradientLearning learning;
  learning.gradients = without_unknown_arrivals(std::move(gradients));
  const auto ranks = engine.process_set_ranks(process_set);
  learning.ranks = ranks.ok() ? ranks->size() : 0;  // if not, the operation says why
  const TransferCost cost = dynamic_cast<const runtime::EngineImpl&>(engine).reduction_cost();
  learning.sums = std::make_shared<std::vector<int64_t>>();
  std::vector<int64_t>& sums = *learning.sums;
  sums = {1, std::llround(cost.latency_us * 1e3), std::llround(1e6 / cost.bytes_per_us)};
  for (const GradientProfile& gradient : learning.gradients) {
    sums.push_back(gradient.fits ? 0 : 1);
    sums.push_back(gradient.arrival_us);
  }
  TensorView view;
  view.data = sums.data();
  view.dtype = DataType::kInt64;
  view.shape = {static_cast<int64_t>(sums.size())};
  view.owner = learning.sums;
  AllreduceOptions options;
  options.op = ReduceOp::kSum;
  options.process_set = process_set;
  learning.work = engine.allreduce_async(name, view, view, options);
  return learning;
}

std::optional<GradientPlan> learnt_plan(const GradientLearning& learning) {
  const std::vector<int64_t>& sums = *learning.sums;
  const int64_t ranks = sums.at(0);
  if (ranks != static_cast<int64_t>(learning.ranks)) return std::nullopt;
  const TransferCost cost{
      static_cast<double>(sums.at(1)) / static_cast<double>(ranks) / 1e3,
      1e6 * static_cast<double>(ranks) / static_cast<double>(std::max<int64_t>(sums.at(2), 1))};
  std::vector<GradientProfile> gradients = learning.gradients;
  for (size_t i = 0; i < gradients.size(); ++i) {
    gradients[i].fits = sums.at(3 + 2 * i) == 0;
    gradients[i].arrival_us = sums.at(4 + 2 * i) / ranks;
  }
  return plan_gradients(gradients, cost);
}

}  // namespace khorus
