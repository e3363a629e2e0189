// FusionTuner: looks for the fusion threshold and the flush window with which a job moves most
// bytes per second, while the job runs.
//
// A pattern search (Hooke and Jeeves, "Direct search solution of numerical and statistical
// problems", JACM 1961) on a grid of powers of two around where it starts: it tries 16 times as
// much and as little of each, moves to whatever is better, and halves the stride (4, 2, 1 powers of
// two) when nothing is. Throughput is noisy, so the best point changes hands only when two samples
// in a row are better than it by `margin`; what is about as good stays as it was. No random
// numbers: the same scores lead the same way.
//
// Pure; one thread at a time (in the engine: the coordinator thread of rank 0).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace khorus::protocol {

struct FusionSettings {
  int64_t threshold_bytes = 64 << 20;
  int64_t window_us = 1000;
  bool operator==(const FusionSettings&) const = default;
};

// "64 MiB and 1 ms"
std::string to_string(const FusionSettings& settings);

class FusionTuner {
 public:
  struct Options {
    FusionSettings start;
    int warmup_samples = 3;  // discarded at the beginning
    int max_samples = 20;    // after them
    double margin = 0.02;    // 2 %
  };
  // REQUIRES: the start's threshold and window are positive.
  explicit FusionTuner(const Options& options);

  // With what the next sample is to be taken; once settled, the choice.
  FusionSettings current() const;
  bool settled() const noexcept { return settled_; }
  // What current() gave, in bytes per second. Returns what follows from it, in words.
  // REQUIRES: not settled.
  std::string sample(double bytes_per_second);
  // The choice and why; once settled.
  std::string verdict() const;

  // The largest threshold that a search from `start` can try.
  static int64_t largest_threshold(const FusionSettings& start) noexcept;

 private:
  // Powers of two from the start: of the threshold, of the window.
  using Point = std::array<int, 2>;

  FusionSettings settings_of(const Point& point) const;
  std::string first_sample(double score);
  void go_on();
  std::optional<Point> next_point();
  std::string move_to_candidate(double score);

  const Options options_;
  int warmup_left_;
  int samples_ = 0;
  bool settled_ = false;
  bool out_of_samples_ = false;
  int stride_ = 4;
  Point best_{};
  double best_score_ = 0;
  double start_score_ = 0;
  Point candidate_{};
  std::optional<double> candidate_score_;  // its first sample, when that was better
  std::map<Point, double> tried_;
};

}  // namespace khorus::protocol
