// Metrics: counters and histograms of one engine, and the page that is made of them.
//
// Counting is a relaxed atomic addition, so it is always on. A page is a list of families under the
// naming rules of Prometheus (khorus_..._total, _seconds, _bytes), written as Prometheus text
// (exposition format 0.0.4) or as one line of JSON. docs/observability.md lists the families.
//
// Thread rule: counters and histograms from any thread; a MetricsPage by one thread at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/runtime/reduction_times.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::runtime {

class Counter {
 public:
  void add(uint64_t count = 1) noexcept { value_.fetch_add(count, std::memory_order_relaxed); }
  uint64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Counts of observations by upper bound. Bounds and observations are integers of one unit.
class Histogram {
 public:
  static constexpr size_t kMaxBounds = 16;
  // REQUIRES: `bounds` ascend, are at most kMaxBounds, and live as long as the histogram.
  explicit Histogram(std::span<const uint64_t> bounds) : bounds_(bounds) {}

  void observe(uint64_t value) noexcept;
  std::span<const uint64_t> bounds() const noexcept { return bounds_; }
  // Of observations at most bounds()[i] and above the bound before; the last: above all.
  uint64_t count(size_t i) const noexcept { return counts_.at(i).load(std::memory_order_relaxed); }
  uint64_t sum() const noexcept { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::span<const uint64_t> bounds_;
  std::array<std::atomic<uint64_t>, kMaxBounds + 1> counts_{};
  std::atomic<uint64_t> sum_{0};
};

// 10 us to 100 s, in nanoseconds.
inline constexpr std::array<uint64_t, 15> kTimeBounds = {
    10'000,        30'000,        100'000,        300'000,        1'000'000,
    3'000'000,     10'000'000,    30'000'000,     100'000'000,    300'000'000,
    1'000'000'000, 3'000'000'000, 10'000'000'000, 30'000'000'000, 100'000'000'000};
inline constexpr std::array<uint64_t, 13> kTensorBounds = {1,   2,   4,   8,    16,   32,  64,
                                                           128, 256, 512, 1024, 2048, 4096};

// What is counted while the engine runs.
struct Metrics {
  static constexpr size_t kStatusCodes = static_cast<size_t>(StatusCode::kInternal) + 1;
  struct OfKind {
    Counter submitted;
    Counter done;                        // well
    Counter responses;                   // fused operations
    Counter bytes;                       // of the input tensors of the operations done
    Histogram negotiation{kTimeBounds};  // from submit to agreement
    Histogram queue{kTimeBounds};        // from agreement to the data plane
    Histogram execution{kTimeBounds};    // on the data plane, with packing and scaling
  };
  std::array<OfKind, kOpKindCount> kinds;
  std::array<Counter, kStatusCodes> errors;  // operations that ended badly
  Histogram fused_tensors{kTensorBounds};
  Counter engine_failures;
  ReductionTimes reductions;  // for plans, not on the page

  OfKind& of(OpKind kind) noexcept { return kinds.at(static_cast<size_t>(kind)); }
  const OfKind& of(OpKind kind) const noexcept { return kinds.at(static_cast<size_t>(kind)); }
};

class MetricsPage {
 public:
  using Labels = std::vector<std::pair<std::string_view, std::string>>;
  // `common` labels stand on every sample.
  explicit MetricsPage(Labels common) : common_(std::move(common)) {}

  // Begins a family; what follows belongs to it. `type`: "counter", "gauge", "histogram".
  void family(std::string name, std::string_view type, std::string_view help);
  void sample(double value, const Labels& labels = {});
  // `unit`: what one of the histogram's integers is in the unit of the family.
  void histogram(const Histogram& histogram, double unit, const Labels& labels = {});

  std::string to_prometheus() const;
  // One object, with a newline; `unix_time_s` becomes "time".
  std::string to_json_line(double unix_time_s) const;

 private:
  struct Sample {
    std::string suffix;  // "_bucket", "_sum", "_count" or none
    std::string labels;  // "{...}"
    double value = 0;
  };
  struct Family {
    std::string name;
    std::string_view type;
    std::string_view help;
    std::vector<Sample> samples;
  };
  std::string labels_text(const Labels& labels) const;

  const Labels common_;
  std::vector<Family> families_;
};

}  // namespace khorus::runtime
