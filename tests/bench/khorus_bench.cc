// khorus-bench: measures the public C++ API under a launcher.
//
//   khorusrun -np 2 khorus-bench [--op allreduce] [--type float32] [--min 4] [--max 16777216]
//   khorusrun -np 2 khorus-bench --mode latency | many | order | idle
//
//   --mode sizes   (the default) one operation, over and over, over a range of sizes: the columns
//   of
//                  nccl-tests, and where the time goes: until all ranks agreed, until it was on the
//                  data plane, and there; control messages (sent and received) per operation
//   --mode latency 4 bytes under a new name and under a known one
//   --mode many    tensors submitted together (and fused) against one after the other
//   --mode order   all ranks in one order against each in its own
//   --mode idle    processor time of an idle engine and of a blocked thread
//   --op           allreduce, allgather, broadcast, reducescatter, alltoall, sendrecv
//   --factor N     from one size to the next; 4
//   --seconds S    per size, per latency, of idling; 0.2 (idle: at least 1)
//   --json FILE    all numbers
//
// One thread per rank. Rank 0 prints; times are its own. A wrong result ends it with code 1.
#include <khorus/khorus.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>

#include "tests/bench/patterns.h"
#include "tests/bench/sizes.h"

namespace khorus::bench {
namespace {

struct Options {
  std::string mode = "sizes";
  std::string json;
  SizesOptions sizes;
};

DataType type_named(const std::string& name) {
  for (int i = 0; i < kDataTypeCount; ++i) {
    if (to_string(static_cast<DataType>(i)) == name) return static_cast<DataType>(i);
  }
  throw std::invalid_argument("--type " + name + " is not a type; one is float32");
}

size_t bytes_of(const std::string& flag, const std::string& value) {
  size_t end = 0;
  const long long bytes = std::stoll(value, &end);
  if (end != value.size() || bytes < 1) {
    throw std::invalid_argument(flag + " takes a whole number from 1, not " + value);
  }
  return static_cast<size_t>(bytes);
}

Options parse(int argc, char** argv) {
  Options options;
  SizesOptions& sizes = options.sizes;
  using Set = std::function<void(const std::string& flag, const std::string& value)>;
  const std::map<std::string, Set> flags = {
      {"--mode", [&](auto&, auto& value) { options.mode = value; }},
      {"--json", [&](auto&, auto& value) { options.json = value; }},
      {"--op", [&](auto&, auto& value) { sizes.op = value; }},
      {"--type", [&](auto&, auto& value) { sizes.type = type_named(value); }},
      {"--min", [&](auto& flag, auto& value) { sizes.least = bytes_of(flag, value); }},
      {"--max", [&](auto& flag, auto& value) { sizes.most = bytes_of(flag, value); }},
      {"--factor",
       [&](auto& flag, auto& value) { sizes.factor = std::max<size_t>(2, bytes_of(flag, value)); }},
      {"--seconds", [&](auto&, auto& value) { sizes.seconds = std::stod(value); }}};
  for (int i = 1; i < argc; i += 2) {
    const auto flag = flags.find(argv[i]);
    if (flag == flags.end()) {
      std::string known;
      for (const auto& [name, set] : flags) known += " " + name;
      throw std::invalid_argument(std::string("unknown flag ") + argv[i] + "; there are" + known);
    }
    if (i + 1 == argc) throw std::invalid_argument(flag->first + " needs a value");
    flag->second(flag->first, argv[i + 1]);
  }
  return options;
}

nlohmann::json run(const Options& options) {
  const double seconds = options.sizes.seconds;
  if (options.mode == "sizes") return run_sizes(options.sizes);
  if (options.mode == "latency") return run_latency(seconds);
  if (options.mode == "many") return {run_many(160, 4096), run_many(200, 16384)};
  if (options.mode == "order") return run_order();
  if (options.mode == "idle") return run_idle(std::max(seconds, 1.0));
  throw std::invalid_argument("--mode is sizes, latency, many, order or idle, not " + options.mode);
}

bool all_right(const nlohmann::json& result) {
  return !result.is_array() || std::all_of(result.begin(), result.end(), [](const auto& row) {
    return row.value("wrong", 0) == 0;
  });
}

}  // namespace
}  // namespace khorus::bench

int main(int argc, char** argv) {
  try {
    const auto options = khorus::bench::parse(argc, argv);
    khorus::init();
    const nlohmann::json result = khorus::bench::run(options);
    if (khorus::rank() == 0 && !options.json.empty()) {
      std::ofstream(options.json) << result.dump(1) << '\n';
    }
    khorus::shutdown();
    return khorus::bench::all_right(result) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "khorus-bench: %s\n", error.what());
    return 1;
  }
}
