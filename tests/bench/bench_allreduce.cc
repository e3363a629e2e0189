// bench_allreduce: times the public C++ API under khorusrun, with the columns of nccl-tests.
//
//   khorusrun -np 2 bench_allreduce [--mode sizes|many|idle] [--json FILE] [--seconds S]
//
//   sizes   all-reduce of one float32 tensor, in place, 4 B to 16 MiB: submit, wait, again
//   many    160 tensors of 4 KB: all submitted and then waited for, against one after the other,
//           alternating
//   idle    processor time of a process whose engine has nothing to do, and of one whose thread is
//           blocked in a collective that the other ranks enter seconds later
//
// One thread per rank. Rank 0 prints; the numbers are its own.
#include <khorus/khorus.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string mode = "sizes";
  std::string json;
  double seconds = 0.3;  // per size; of idling
};

struct Sample {
  size_t bytes = 0;
  std::vector<double> times_us;
  uint64_t wrong = 0;

  double quantile(double q) const {
    std::vector<double> sorted = times_us;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<size_t>(q * static_cast<double>(sorted.size() - 1))];
  }
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

khorus::WorkPtr submit(const std::string& name, std::vector<float>& data) {
  const khorus::TensorView view = khorus::internal::flat_view(data.data(), data.size());
  khorus::AllreduceOptions options;
  options.op = khorus::ReduceOp::kAverage;  // the mean of equal values: stays what it is
  return khorus::engine().allreduce_async(name, view, view, options);
}

void finish(const khorus::WorkPtr& work) { khorus::throw_if_error(work->wait()); }

// All ranks must make the same number of rounds: rank 0 measures, all take its answer.
int64_t rounds_for(double seconds, const std::function<void()>& once) {
  for (int i = 0; i < 5; ++i) once();
  const auto start = Clock::now();
  for (int i = 0; i < 5; ++i) once();
  int64_t rounds =
      std::clamp<int64_t>(static_cast<int64_t>(seconds / seconds_since(start) * 5), 5, 5000);
  khorus::broadcast("rounds", &rounds, 1, 0);
  return rounds;
}

// The first rounds check the sum; the timed ones average, so that values stay in range.
uint64_t count_wrong(const std::string& name, std::vector<float>& data) {
  std::fill(data.begin(), data.end(), static_cast<float>(khorus::rank() + 1));
  khorus::allreduce(name, data.data(), data.size(), khorus::ReduceOp::kSum);
  const auto expected = static_cast<float>(khorus::size() * (khorus::size() + 1)) / 2;
  const auto wrong = std::count_if(data.begin(), data.end(),
                                   [expected](float value) { return value != expected; });
  return static_cast<uint64_t>(wrong);
}

Sample time_size(size_t bytes, double seconds) {
  Sample sample;
  sample.bytes = bytes;
  std::vector<float> data(std::max<size_t>(1, bytes / sizeof(float)));
  const std::string name = "bench." + std::to_string(bytes);
  sample.wrong = count_wrong(name + ".check", data);
  const auto once = [&] { finish(submit(name, data)); };
  const int64_t rounds = rounds_for(seconds, once);
  khorus::barrier();
  for (int64_t i = 0; i < rounds; ++i) {
    const auto start = Clock::now();
    once();
    sample.times_us.push_back(seconds_since(start) * 1e6);
  }
  return sample;
}

void print_table(const std::vector<Sample>& samples) {
  std::printf("# backend %s, %d ranks, float32, in place\n",
              khorus::engine().backend_name().c_str(), khorus::size());
  std::printf("#%11s %11s %8s %6s %10s %8s %8s %7s\n", "size(B)", "count", "type", "redop",
              "time(us)", "algbw", "busbw", "#wrong");
  for (const Sample& sample : samples) {
    const double time = sample.quantile(0.5);
    const double algorithm = static_cast<double>(sample.bytes) / time / 1e3;  // GB/s
    const double bus = algorithm * 2 * (khorus::size() - 1) / khorus::size();
    std::printf("%12zu %11zu %8s %6s %10.1f %8.3f %8.3f %7llu\n", sample.bytes, sample.bytes / 4,
                "float", "avg", time, algorithm, bus,
                static_cast<unsigned long long>(sample.wrong));
  }
}

std::string json_of(const std::vector<Sample>& samples) {
  std::string text = "[";
  for (const Sample& s : samples) {
    char line[256];
    std::snprintf(line, sizeof line,
                  "%s\n  {\"bytes\": %zu, \"p50_us\": %.3f, \"min_us\": %.3f, \"p99_us\": %.3f, "
                  "\"rounds\": %zu, \"wrong\": %llu}",
                  text.size() > 1 ? "," : "", s.bytes, s.quantile(0.5), s.quantile(0),
                  s.quantile(0.99), s.times_us.size(), static_cast<unsigned long long>(s.wrong));
    text += line;
  }
  return text + "\n]\n";
}

std::string run_sizes(const Options& options) {
  std::vector<Sample> samples;
  for (size_t bytes = 4; bytes <= (size_t{16} << 20); bytes *= bytes == 4 ? 16 : 4) {
    samples.push_back(time_size(bytes, options.seconds));
  }
  if (khorus::rank() == 0) print_table(samples);
  return json_of(samples);
}

// Alternating A B A B within one process: [together, one by one] per round, in microseconds.
std::string run_many(const Options&) {
  constexpr size_t kTensors = 160, kBytes = 4096;
  std::vector<std::vector<float>> tensors(kTensors, std::vector<float>(kBytes / sizeof(float), 1));
  const auto together = [&] {
    std::vector<khorus::WorkPtr> works;
    for (size_t i = 0; i < kTensors; ++i) {
      works.push_back(submit("many." + std::to_string(i), tensors[i]));
    }
    khorus::throw_if_error(khorus::wait_all(works));
  };
  const auto one_by_one = [&] {
    for (size_t i = 0; i < kTensors; ++i) finish(submit("one." + std::to_string(i), tensors[i]));
  };
  std::string text = "[";
  for (int round = -2; round < 11; ++round) {  // two to warm up
    double times_us[2];
    for (int which = 0; which < 2; ++which) {
      khorus::barrier();
      const auto start = Clock::now();
      which == 0 ? together() : one_by_one();
      times_us[which] = seconds_since(start) * 1e6;
    }
    if (round < 0) continue;
    text += (round == 0 ? "" : ", ") + ("[" + std::to_string(times_us[0])) + ", " +
            std::to_string(times_us[1]) + "]";
    if (khorus::rank() == 0) {
      std::printf("160 x 4 KB: together %.0f us, one by one %.0f us, ratio %.1f\n", times_us[0],
                  times_us[1], times_us[1] / times_us[0]);
    }
  }
  return text + "]\n";
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

std::string run_idle(const Options& options) {
  const double seconds = std::max(options.seconds, 1.0);
  std::vector<float> data(1024);
  finish(submit("warm up", data));
  khorus::barrier();
  double before = processor_seconds();
  pass_time(seconds);
  const double idle = (processor_seconds() - before) / seconds;

  khorus::barrier();
  before = processor_seconds();
  const auto start = Clock::now();
  if (khorus::rank() != 0) pass_time(seconds);
  finish(submit("late", data));  // rank 0 waits here for the others
  const double blocked = (processor_seconds() - before) / seconds_since(start);
  if (khorus::rank() == 0) {
    std::printf("processor time of rank 0: %.3f %% of a core when idle, %.3f %% when blocked\n",
                idle * 100, blocked * 100);
  }
  return "{\"idle\": " + std::to_string(idle) + ", \"blocked\": " + std::to_string(blocked) + "}\n";
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (i + 1 == argc) throw std::runtime_error(flag + " needs a value");
    if (flag == "--mode")
      options.mode = argv[i + 1];
    else if (flag == "--json")
      options.json = argv[i + 1];
    else if (flag == "--seconds")
      options.seconds = std::stod(argv[i + 1]);
    else
      throw std::runtime_error("unknown flag " + flag + "; there are --mode, --json, --seconds");
  }
  return options;
}

std::string run(const Options& options) {
  if (options.mode == "sizes") return run_sizes(options);
  if (options.mode == "many") return run_many(options);
  if (options.mode == "idle") return run_idle(options);
  throw std::runtime_error("--mode is sizes, many or idle, not " + options.mode);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    khorus::init();
    const std::string json = run(options);
    if (khorus::rank() == 0 && !options.json.empty()) std::ofstream(options.json) << json;
    khorus::shutdown();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_allreduce: %s\n", error.what());
    return 1;
  }
}
