// Autotune: feeds the FusionTuner of rank 0 with samples of the running job.
//
// A step of the job ends where an operation comes that was in the step already: training repeats
// itself. (An operation without a name never repeats; a step of 4096 operations ends anyway.) A
// sample is the bytes that were agreed in `steps_per_sample` steps over the time they took; the
// steps on either side of a change are not counted.
//
// Thread rule: the coordinator thread of rank 0.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_set>

#include "core/base/log.h"
#include "core/protocol/fusion_tuner.h"
#include "core/protocol/node.h"
#include "core/runtime/background_writer.h"

namespace khorus::runtime {

class Autotune {
 public:
  struct Options {
    protocol::FusionTuner::Options tuner;
    int64_t steps_per_sample = 10;
    std::string log_path;  // empty: none
    const base::Logger* logger = nullptr;
    BackgroundWriter* writer = nullptr;
  };
  explicit Autotune(Options options);

  // What the tuner starts from, from the knobs.
  static protocol::FusionSettings start_of(const Config& config);
  // The largest fusion threshold that may come to be in force, tuned or not.
  static int64_t largest_threshold(const Config& config);

  // New operations were agreed. Returns what the node is to use from now on, when that changes.
  std::optional<protocol::FusionSettings> agreed(std::span<const protocol::Execution> executions,
                                                 protocol::TimeUs now);

 private:
  // Whether a step ended before this operation.
  bool begins_step(const std::string& name);
  std::optional<protocol::FusionSettings> end_sample(protocol::TimeUs now);
  void log_line(const std::string& line);

  const Options options_;
  protocol::FusionTuner tuner_;
  std::unordered_set<size_t> names_in_step_;  // hashes
  int64_t steps_to_skip_ = 1;                 // until the sample begins
  int64_t steps_ = 0;                         // of the sample
  int64_t bytes_ = 0;
  protocol::TimeUs began_ = 0;
};

}  // namespace khorus::runtime
