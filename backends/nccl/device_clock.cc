// See device_clock.h.
#include "backends/nccl/device_clock.h"

#include <algorithm>
#include <cmath>

namespace khorus::backends::nccl {
namespace {

constexpr int64_t kRenewal = 8'000'000'000;

}  // namespace

std::optional<int64_t> DeviceClock::distance(CUevent from, CUevent to) const {
  float milliseconds = 0;
  if (driver_.event_elapsed_time(&milliseconds, from, to) != CUDA_SUCCESS) return std::nullopt;
  return std::llround(double{milliseconds} * 1e6);
}

std::optional<DeviceClock::Span> DeviceClock::span(CUevent begin, CUevent end, int64_t seen) {
  const std::optional<int64_t> took = distance(begin, end);
  if (!took) return std::nullopt;
  if (reference_ == nullptr) {
    reference_ = end;
    origin_ = seen;
  }
  const std::optional<int64_t> since = reference_ == end ? 0 : distance(reference_, end);
  if (!since) return std::nullopt;
  lowest_ = std::min(lowest_, seen - *since);
  origin_ = std::min(origin_, lowest_);
  const Span span{origin_ + *since - *took, origin_ + *since};
  if (*since >= kRenewal) {
    origin_ = lowest_ + *since;  // of this reference's time only: what came before may have drifted
    reference_ = end;
    lowest_ = std::numeric_limits<int64_t>::max();
  }
  return span;
}

}  // namespace khorus::backends::nccl
