// See patterns.h.
#include "tests/bench/patterns.h"

#include <khorus/khorus.h>
#include <sys/resource.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <random>

#include "tests/bench/measure.h"

namespace khorus::bench {
namespace {

using nlohmann::json;
constexpr int kPairs = 11;

// Tensors that are allreduced together, step after step.
class Tensors {
 public:
  Tensors(std::string prefix, const std::vector<size_t>& bytes) : prefix_(std::move(prefix)) {
    for (const size_t size : bytes) tensors_.emplace_back(size / sizeof(float), 1.0F);
  }
  size_t count() const { return tensors_.size(); }
  WorkPtr submit(size_t i) {
    const TensorView view = internal::flat_view(tensors_[i].data(), tensors_[i].size());
    AllreduceOptions options;
    options.op = ReduceOp::kAverage;  // of equal values: leaves them as they are
    return khorus::engine().allreduce_async(prefix_ + std::to_string(i), view, view, options);
  }
  void together(const std::vector<size_t>& order) {
    std::vector<WorkPtr> works;
    for (const size_t i : order) works.push_back(submit(i));
    throw_if_error(wait_all(works));
  }
  std::vector<size_t> in_order() const {
    std::vector<size_t> order(count());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    return order;
  }

 private:
  const std::string prefix_;
  std::vector<std::vector<float>> tensors_;
};

double time_us(const std::function<void()>& step) {
  khorus::barrier();
  const auto start = Clock::now();
  step();
  return seconds_since(start) * 1e6;
}

// Alternating; the first two pairs warm up.
json pairs_of(const char* first_name, const std::function<void()>& first, const char* second_name,
              const std::function<void()>& second) {
  json pairs = json::array();
  for (int pair = -2; pair < kPairs; ++pair) {
    const double a = time_us(first), b = time_us(second);
    if (pair < 0) continue;
    pairs.push_back({{first_name, a}, {second_name, b}});
  }
  return pairs;
}

double median_of(const json& pairs, const char* name) {
  std::vector<double> values;
  for (const json& pair : pairs) values.push_back(pair.at(name).get<double>());
  return quantile(values, 0.5);
}

double processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Waits without doing anything; here the passing of time is what is measured.
void pass_time(double seconds) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable never;
  never.wait_for(lock, std::chrono::duration<double>(seconds), [] { return false; });
}

}  // namespace

json run_latency(double seconds) {
  float value = 1;
  const TensorView view = internal::flat_view(&value, 1);
  AllreduceOptions options;
  options.op = ReduceOp::kMax;
  int64_t number = 0;
  const auto once = [&](const std::string& name) {
    throw_if_error(khorus::engine().allreduce_async(name, view, view, options)->wait());
  };
  const auto fresh = [&] { once("new." + std::to_string(number++)); };
  const auto cached = [&] { once("cached"); };
  const int64_t rounds = rounds_for(seconds, cached);
  std::vector<double> of_new, of_cached;
  for (int block = 0; block < 5; ++block) {
    for (const double time : time_rounds(rounds / 5, fresh)) of_new.push_back(time);
    for (const double time : time_rounds(rounds / 5, cached)) of_cached.push_back(time);
  }
  if (khorus::rank() == 0) {
    std::printf(
        "4 bytes, submit to done: new p50 %.1f us, p99 %.1f; cached p50 %.1f us, p99 %.1f\n",
        quantile(of_new, 0.5), quantile(of_new, 0.99), quantile(of_cached, 0.5),
        quantile(of_cached, 0.99));
  }
  return {{"new_us", summary(of_new)}, {"cached_us", summary(of_cached)}};
}

json run_many(size_t tensors, size_t bytes) {
  Tensors many("many.", std::vector<size_t>(tensors, bytes));
  const std::vector<size_t> order = many.in_order();
  const json pairs = pairs_of(
      "together_us", [&] { many.together(order); }, "one_by_one_us",
      [&] {
        for (const size_t i : order) throw_if_error(many.submit(i)->wait());
      });
  if (khorus::rank() == 0) {
    std::printf("%zu x %zu bytes: together %.0f us, one by one %.0f us\n", tensors, bytes,
                median_of(pairs, "together_us"), median_of(pairs, "one_by_one_us"));
  }
  return {{"tensors", tensors}, {"bytes", bytes}, {"pairs", pairs}};
}

json run_order() {
  // The mix of a network's gradients: matrices, each with a vector or two.
  std::vector<size_t> sizes;
  for (int layer = 0; layer < 24; ++layer) {
    sizes.insert(sizes.end(), {size_t{1} << 20, 4096, size_t{256} << 10, 1024, 1024});
  }
  Tensors tensors("order.", sizes);
  const std::vector<size_t> same = tensors.in_order();
  std::mt19937 random(static_cast<unsigned>(khorus::rank()) + 1);
  const json pairs = pairs_of(
      "same_us", [&] { tensors.together(same); }, "shuffled_us",
      [&] {
        std::vector<size_t> order = same;
        std::shuffle(order.begin(), order.end(), random);
        tensors.together(order);
      });
  constexpr int kSteps = 20;
  const ControlTraffic before = ControlTraffic::now();
  for (int step = 0; step < kSteps; ++step) tensors.together(same);
  const ControlTraffic traffic = ControlTraffic::now() - before;
  if (khorus::rank() == 0) {
    std::printf(
        "%zu tensors at once: same order %.0f us, another on each rank %.0f us; "
        "%.1f control messages and %.0f bytes per step\n",
        tensors.count(), median_of(pairs, "same_us"), median_of(pairs, "shuffled_us"),
        traffic.messages / kSteps, traffic.bytes / kSteps);
  }
  return {{"tensors", tensors.count()},
          {"pairs", pairs},
          {"control_messages_per_step", traffic.messages / kSteps},
          {"control_bytes_per_step", traffic.bytes / kSteps}};
}

json run_idle(double seconds) {
  std::vector<float> data(1024);
  khorus::allreduce("warm up", data.data(), data.size(), ReduceOp::kSum);
  khorus::barrier();
  double before = processor_seconds();
  pass_time(seconds);
  const double idle = (processor_seconds() - before) / seconds;

  khorus::barrier();
  before = processor_seconds();
  const auto start = Clock::now();
  if (khorus::rank() != 0) pass_time(seconds);
  khorus::allreduce("late", data.data(), data.size(), ReduceOp::kSum);  // rank 0 waits here
  const double blocked = (processor_seconds() - before) / seconds_since(start);
  if (khorus::rank() == 0) {
    std::printf("processor time of rank 0: %.3f %% of a core when idle, %.3f %% when blocked\n",
                idle * 100, blocked * 100);
  }
  return {{"idle", idle}, {"blocked", blocked}};
}

}  // namespace khorus::bench
