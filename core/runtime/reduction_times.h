// ReductionTimes: what reductions cost here, as the quickest ones have shown.
//
// The quickest of each size, because the others say how long other ranks, tensors or processes were
// waited for. Thread rule: any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>

#include "khorus/gradient_plan.h"

namespace khorus::runtime {

class ReductionTimes {
 public:
  // From submit to agreement.
  void negotiated(uint64_t ns) noexcept;
  // On the data plane, all of one response.
  void executed(size_t bytes, uint64_t ns) noexcept;

  // Latency: the quickest agreement and the quickest execution. Speed: of the largest that have
  // been seen. The default before there was any.
  TransferCost cost() const noexcept;

 private:
  struct Quickest {
    size_t bytes = 0;  // 0: none yet
    uint64_t ns = 0;
  };
  mutable std::mutex mutex_;
  uint64_t negotiation_ns_ = ~uint64_t{0};
  std::array<Quickest, 65> by_size_;  // by the number of bits of the size
};

}  // namespace khorus::runtime
