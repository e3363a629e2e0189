// What the modes of khorus-bench share: rounds that all ranks agree on, times and their quantiles,
// and what the engine itself counted meanwhile.
//
// Thread rule: one thread per rank; rounds_for() is a collective operation.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace khorus::bench {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start);

// REQUIRES: not empty. 0 <= q <= 1.
double quantile(std::vector<double> values, double q);

// How often `once` fits into `seconds`, at least 5 and at most 20,000 times: rank 0 measures, all
// take its answer, so that all make the same number of rounds.
int64_t rounds_for(double seconds, const std::function<void()>& once);

// Microseconds of each of `rounds` calls.
std::vector<double> time_rounds(int64_t rounds, const std::function<void()>& once);

// What went over this rank's control channel so far, both directions.
struct ControlTraffic {
  double messages = 0, bytes = 0;
  static ControlTraffic now();
  ControlTraffic operator-(const ControlTraffic& before) const {
    return {messages - before.messages, bytes - before.bytes};
  }
};

// Microseconds an operation spent until all ranks had agreed on it, until it was on the data plane,
// and there.
struct Stages {
  std::vector<double> agreed, dispatched, done;
};
// Of the last `most` operations of this kind, as far as the flight recorder has them.
Stages stages_of(const std::string& kind, size_t most);

// {"p50": , "p99": , "min": , "max": } or null if there is none.
nlohmann::json summary(const std::vector<double>& values);

}  // namespace khorus::bench
