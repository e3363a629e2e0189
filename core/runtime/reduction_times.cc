// See reduction_times.h.
#include "core/runtime/reduction_times.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace khorus::runtime {

void ReductionTimes::negotiated(uint64_t ns) noexcept {
  const std::lock_guard lock(mutex_);
  negotiation_ns_ = std::min(negotiation_ns_, ns);
}

void ReductionTimes::executed(size_t bytes, uint64_t ns) noexcept {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  Quickest& quickest = by_size_.at(static_cast<size_t>(std::bit_width(bytes)));
  // By speed: the sizes in one place differ up to twofold.
  if (quickest.bytes == 0 || static_cast<double>(ns) * static_cast<double>(quickest.bytes) <
                                 static_cast<double>(quickest.ns) * static_cast<double>(bytes)) {
    quickest = {bytes, ns};
  }
}

TransferCost ReductionTimes::cost() const noexcept {
  const std::lock_guard lock(mutex_);
  uint64_t least_ns = std::numeric_limits<uint64_t>::max();
  Quickest largest;
  for (const Quickest& quickest : by_size_) {
    if (quickest.bytes == 0) continue;
    least_ns = std::min(least_ns, quickest.ns);
    largest = quickest;
  }
  if (largest.bytes == 0) return {};
  // At least a tenth of the time is the bytes': all may have been about as small.
  const uint64_t bytes_ns = std::max({largest.ns - least_ns, largest.ns / 10, uint64_t{1}});
  const uint64_t negotiation_ns = negotiation_ns_ == ~uint64_t{0} ? 0 : negotiation_ns_;
  return {static_cast<double>(least_ns + negotiation_ns) / 1e3,
          static_cast<double>(largest.bytes) * 1e3 / static_cast<double>(bytes_ns)};
}

}  // namespace khorus::runtime
