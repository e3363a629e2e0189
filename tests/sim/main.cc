// khorus_sim: runs seeded schedules of the protocol under checkers.
//
//   khorus_sim --seeds 1..20000          run a range (two threads; --jobs N)
//   khorus_sim --seed 4711 --verbose     one seed, with a readable trace
//   khorus_sim --file tests/sim/seeds.txt  the regression seeds, one per line ("seed  # why")
//   khorus_sim --ci                      20,000 schedules, a million with KHORUS_TEST_SOAK=1
//   khorus_sim --scale                   messages and bytes at the busiest process, 8 to 8192 ranks
//   khorus_sim --plain ...               without process sets, joins and send/recv
// and --ranks N or --ranks A..B bounds the size of the world.
//
// A seed that fails prints what failed and the command that replays it. Exit code 1 if any did.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/sim/scale.h"
#include "tests/sim/schedule.h"

namespace khorus::sim {
namespace {

struct Arguments {
  std::vector<uint64_t> seeds;
  ScenarioLimits limits;
  bool bounded = false;  // --ranks was given
  bool verbose = false;
  bool scale = false;
  unsigned jobs = 2;
};

thread_local uint64_t current_seed = 0;

std::string replay_command(uint64_t seed, const Arguments& arguments) {
  std::string command = "khorus_sim --seed " + std::to_string(seed);
  if (arguments.bounded) {
    command += " --ranks " + std::to_string(arguments.limits.min_ranks) + ".." +
               std::to_string(arguments.limits.max_ranks);
  }
  if (arguments.limits.plain) command += " --plain";
  return command + " --verbose";
}

// A failed assertion of the product ends the process: say which seed did it.
void on_abort(int) {
  const std::string text =
      "replay: khorus_sim --seed " + std::to_string(current_seed) + " --verbose\n";
  const ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
  (void)ignored;
  std::signal(SIGABRT, SIG_DFL);
  std::abort();
}

bool parse_range(const std::string& text, uint64_t* first, uint64_t* last) {
  const size_t dots = text.find("..");
  char* end = nullptr;
  *first = std::strtoull(text.c_str(), &end, 10);
  *last = dots == std::string::npos ? *first : std::strtoull(text.c_str() + dots + 2, &end, 10);
  return *end == '\0' && *first <= *last;
}

bool add_range(const std::string& text, std::vector<uint64_t>* seeds) {
  uint64_t first = 0;
  uint64_t last = 0;
  if (!parse_range(text, &first, &last)) return false;
  for (uint64_t seed = first; seed <= last; ++seed) seeds->push_back(seed);
  return true;
}

bool add_file(const std::string& path, std::vector<uint64_t>* seeds) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    const std::string number = line.substr(0, line.find_first_of(" \t#"));
    if (!number.empty() && !add_range(number, seeds)) return false;
  }
  return file.eof();
}

bool set_ranks(const std::string& text, Arguments* arguments) {
  uint64_t first = 0;
  uint64_t last = 0;
  if (!parse_range(text, &first, &last) || first < 2) return false;
  arguments->limits.min_ranks = static_cast<int>(first);
  arguments->limits.max_ranks = static_cast<int>(last);
  arguments->bounded = true;
  return true;
}

bool parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const char* soak = std::getenv("KHORUS_TEST_SOAK");
    bool good = true;
    if (option == "--verbose") {
      arguments->verbose = true;
    } else if (option == "--plain") {
      arguments->limits.plain = true;
    } else if (option == "--scale") {
      arguments->scale = true;
    } else if (option == "--ci") {
      const bool full = soak != nullptr && std::strcmp(soak, "1") == 0;
      good = add_range(full ? "1..1000000" : "1..20000", &arguments->seeds);
    } else if (i + 1 == argc) {
      good = false;
    } else if (option == "--seed" || option == "--seeds") {
      good = add_range(argv[++i], &arguments->seeds);
    } else if (option == "--file") {
      good = add_file(argv[++i], &arguments->seeds);
    } else if (option == "--ranks") {
      good = set_ranks(argv[++i], arguments);
    } else if (option == "--jobs") {
      arguments->jobs = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
      good = arguments->jobs > 0;
    } else {
      good = false;
    }
    if (!good) {
      std::fprintf(stderr, "khorus_sim: cannot use %s; see the head of tests/sim/main.cc\n",
                   option.c_str());
      return false;
    }
  }
  return true;
}

// Runs the seeds on some threads; returns how many failed.
size_t run_seeds(const Arguments& arguments) {
  std::atomic<size_t> next = 0;
  std::atomic<size_t> failed = 0;
  std::mutex output;
  const auto work = [&] {
    for (size_t i = next++; i < arguments.seeds.size(); i = next++) {
      const uint64_t seed = arguments.seeds[i];
      current_seed = seed;
      const ScheduleResult result =
          run_schedule(draw_scenario(seed, arguments.limits), arguments.verbose ? stdout : nullptr);
      if (result.failures.empty()) continue;
      ++failed;
      const std::lock_guard lock(output);
      std::printf("FAILED %s\n", result.scenario.describe().c_str());
      for (const std::string& failure : result.failures) std::printf("  %s\n", failure.c_str());
      std::printf("  replay: %s\n", replay_command(seed, arguments).c_str());
      std::fflush(stdout);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < (arguments.verbose ? 1 : arguments.jobs); ++i)
    threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  return failed;
}

int run(const Arguments& arguments) {
  if (arguments.scale) {
    std::vector<ScaleRow> rows;
    const ScaleOptions options;
    for (int ranks = 8; ranks <= 8192; ranks *= 2) rows.push_back(measure_scale(ranks, options));
    print_scale(rows, options, stdout);
    return 0;
  }
  std::signal(SIGABRT, on_abort);
  const auto start = std::chrono::steady_clock::now();
  const size_t failed = run_seeds(arguments);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%zu schedules, %zu failed, %.1f s\n", arguments.seeds.size(), failed, seconds);
  return failed == 0 && !arguments.seeds.empty() ? 0 : 1;
}

}  // namespace
}  // namespace khorus::sim

int main(int argc, char** argv) {
  khorus::sim::Arguments arguments;
  if (!khorus::sim::parse(argc, argv, &arguments)) return 2;
  return khorus::sim::run(arguments);
}
