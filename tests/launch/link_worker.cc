// A rank that keeps the link between hosts full: what test_link.py starts.
//
//   link_worker LIFELINE MIB ROUNDS
//
// Sums MIB MiB of float32 over all ranks, ROUNDS times (-1: for ever), and checks every element.
// Writes to the pipe LIFELINE, a line each: "ready" after init(), from rank 0 "begins" before each
// sum and "round SECONDS" after it, at the end "done", or "failed WHEN MESSAGE", where WHEN is
// CLOCK_MONOTONIC.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "khorus/khorus.h"

namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void say(int lifeline, const std::string& words) {
  const std::string line = words + "\n";
  if (write(lifeline, line.data(), line.size()) < 0) std::_Exit(4);
}

// Other values in every round, which float32 holds exactly.
float value_of(int rank, size_t element, int round) {
  return static_cast<float>((element + static_cast<size_t>(round)) % 1000) +
         static_cast<float>(1000 * rank);
}

bool sum_is_right(const std::vector<float>& sums, int round) {
  const int size = khorus::size();
  for (size_t i = 0; i < sums.size(); ++i) {
    const float own = value_of(0, i, round) * static_cast<float>(size);
    if (sums[i] != own + static_cast<float>(1000 * size * (size - 1) / 2)) return false;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int lifeline = open(argv[1], O_WRONLY | O_CLOEXEC);
  std::vector<float> values(static_cast<size_t>(std::atoi(argv[2])) << 18);
  const int rounds = std::atoi(argv[3]);
  try {
    khorus::init();
    say(lifeline, "ready");
    for (int round = 0; round != rounds; ++round) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = value_of(khorus::rank(), i, round);
      khorus::barrier();
      if (khorus::rank() == 0) say(lifeline, "begins");
      const double began = now_s();
      khorus::allreduce("large", values.data(), values.size(), khorus::ReduceOp::kSum);
      const double took = now_s() - began;
      if (!sum_is_right(values, round)) {
        say(lifeline, "wrong in round " + std::to_string(round));
        return 1;
      }
      if (khorus::rank() == 0) say(lifeline, "round " + std::to_string(took));
    }
    khorus::shutdown();
    say(lifeline, "done");
    return 0;
  } catch (const khorus::Error& error) {
    say(lifeline, "failed " + std::to_string(now_s()) + " " + error.status().to_string());
    return 3;
  }
}
