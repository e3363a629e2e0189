// See fusion_tuner.h.
#include "core/protocol/fusion_tuner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/base/assert.h"

namespace khorus::protocol {
namespace {

// How far the search may go from its start, in powers of two: 64 KiB to 256 MiB from 64 MiB, and
// 15 us to 16 ms from 1 ms.
constexpr std::array<int, 2> kLowest = {-10, -6};
constexpr std::array<int, 2> kHighest = {2, 4};

std::string percent(double ratio) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", ratio * 100);
  return text;
}

std::string rate(double bytes_per_second) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MB/s", bytes_per_second * 1e-6);
  return text;
}

}  // namespace

std::string to_string(const FusionSettings& settings) {
  char text[64];
  std::snprintf(text, sizeof text, "%.6g MiB and %.6g ms",
                static_cast<double>(settings.threshold_bytes) / (1 << 20),
                static_cast<double>(settings.window_us) * 1e-3);
  return text;
}

FusionTuner::FusionTuner(const Options& options)
    : options_(options), warmup_left_(std::max(options.warmup_samples, 0)) {
  KHORUS_ASSERT(options.start.threshold_bytes > 0 && options.start.window_us > 0,
                "the tuner cannot start from fusion turned off");
  if (options.max_samples <= 0) {
    settled_ = true;
    out_of_samples_ = true;
  }
}

int64_t FusionTuner::largest_threshold(const FusionSettings& start) noexcept {
  return start.threshold_bytes << kHighest[0];
}

FusionSettings FusionTuner::settings_of(const Point& point) const {
  const auto scaled = [](int64_t value, int power) {
    return std::max<int64_t>(1,
                             static_cast<int64_t>(std::ldexp(static_cast<double>(value), power)));
  };
  return {scaled(options_.start.threshold_bytes, point[0]),
          scaled(options_.start.window_us, point[1])};
}

FusionSettings FusionTuner::current() const {
  return settings_of(settled_ || tried_.empty() ? best_ : candidate_);
}

std::string FusionTuner::sample(double bytes_per_second) {
  KHORUS_ASSERT(!settled_, "a sample for a tuner that has settled");
  if (warmup_left_ > 0) {
    --warmup_left_;
    return "warm-up, not counted";
  }
  ++samples_;
  std::string what;
  if (tried_.empty()) {
    what = "the start";
    start_score_ = best_score_ = bytes_per_second;
    tried_[best_] = bytes_per_second;
    go_on();
  } else if (candidate_score_.has_value()) {
    what = move_to_candidate(bytes_per_second);
    go_on();
  } else {
    what = first_sample(bytes_per_second);
  }
  if (!settled_ && samples_ >= options_.max_samples) {
    settled_ = true;
    out_of_samples_ = true;
  }
  return what;
}

// The first of a candidate: a second one follows if it is better.
std::string FusionTuner::first_sample(double score) {
  tried_[candidate_] = score;
  if (score > best_score_ * (1 + options_.margin)) {
    candidate_score_ = score;
    return "better, once more";
  }
  go_on();
  return "not better";
}

std::string FusionTuner::move_to_candidate(double score) {
  const double first = *candidate_score_;
  candidate_score_.reset();
  if (score <= best_score_ * (1 + options_.margin)) return "not better again";
  best_ = candidate_;
  best_score_ = (first + score) / 2;
  tried_[best_] = best_score_;
  return "better again, the new best";
}

void FusionTuner::go_on() {
  const std::optional<Point> next = next_point();
  settled_ = !next.has_value();
  candidate_ = next.value_or(best_);
}

// The next neighbour of the best point that was not tried; smaller strides when there is none.
std::optional<FusionTuner::Point> FusionTuner::next_point() {
  for (; stride_ > 0; stride_ /= 2) {
    for (const size_t axis : {size_t{0}, size_t{1}}) {
      for (const int step : {-stride_, stride_}) {
        Point point = best_;
        point.at(axis) += step;
        const bool possible =
            point.at(axis) >= kLowest.at(axis) && point.at(axis) <= kHighest.at(axis);
        if (possible && !tried_.contains(point)) return point;
      }
    }
  }
  return std::nullopt;
}

std::string FusionTuner::verdict() const {
  std::string text = "fusion threshold and flush window are " + to_string(settings_of(best_));
  if (samples_ == 0) return text + ": no samples were allowed";
  text += ": " + rate(best_score_);
  if (best_ == Point{}) {
    text += ", the start";
  } else {
    text += ", " + percent(best_score_ / start_score_ - 1) + " above the start (" +
            to_string(options_.start) + ")";
  }
  text += ", after " + std::to_string(samples_) + " samples; ";
  return text + (out_of_samples_ ? "that is the limit"
                                 : "twice or half as much of either was not better by " +
                                       percent(options_.margin));
}

}  // namespace khorus::protocol
