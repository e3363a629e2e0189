// DeviceClock: when events of a device came, on the host's steady clock.
//
// The device only tells how far apart two events are (cuEventElapsedTime). So one event is the
// reference, and what the host's clock showed at it is estimated: the host sees an event when or
// after it comes, so every event seen gives an upper bound, and the smallest one counts (Cristian's
// algorithm, one way). The reference is renewed before distances, which are floats of milliseconds,
// become coarser than a microsecond, and before the clocks have drifted apart noticeably.
//
// Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "backends/nccl/driver.h"

namespace khorus::backends::nccl {

class DeviceClock {
 public:
  // Nanoseconds of the steady clock.
  struct Span {
    int64_t begin;
    int64_t end;
  };
  explicit DeviceClock(const Driver& driver) : driver_(driver) {}

  // Two events with timing, `end` the later one, which the host saw complete at `seen`, and nothing
  // that came after it before. Nothing if the driver does not know.
  std::optional<Span> span(CUevent begin, CUevent end, int64_t seen);
  // The event that later ones are compared with, null at first: it must stay as it is.
  CUevent reference() const { return reference_; }

 private:
  std::optional<int64_t> distance(CUevent from, CUevent to) const;

  const Driver& driver_;
  CUevent reference_ = nullptr;
  int64_t origin_ = 0;                                    // what the host's clock showed at it
  int64_t lowest_ = std::numeric_limits<int64_t>::max();  // of the bounds seen with this reference
};

}  // namespace khorus::backends::nccl
