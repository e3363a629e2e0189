// Traffic: one operation that every rank of the group needs, of each kind that the fault tests
// interrupt. Used by the thread of one rank; the memory is the caller's, as in the engine.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "khorus/status.h"
#include "khorus/types.h"
#include "tests/conformance/world.h"

namespace khorus::conformance {

class Traffic {
 public:
  // `count`: float32 elements that each two ranks send to each other.
  Traffic(Member& member, OpKind kind, size_t count)
      : member_(member),
        kind_(kind),
        counts_(static_cast<size_t>(member.size()), count),
        input_(counts_.size() * count, 1.0f),
        output_(counts_.size() * count) {}

  Status run() {
    switch (kind_) {
      case OpKind::kAlltoall:
        return member_.alltoall(DataType::kFloat32, counts_, counts_, input_.data(),
                                output_.data());
      case OpKind::kReducescatter:
        return member_.reducescatter({DataType::kFloat32, ReduceOp::kSum, counts_}, input_.data(),
                                     output_.data());
      default:
        return run_pairs();
    }
  }
  std::vector<float>& output() { return output_; }

 private:
  // A send/recv of every pair, in a total order, all numbered.
  Status run_pairs() {
    const int me = member_.rank();
    Status status;
    for (int a = 0; a < member_.size(); ++a) {
      for (int b = a + 1; b < member_.size(); ++b) {
        ++sequence_;
        if (!status.ok() || (me != a && me != b)) continue;
        member_.set_sequence(sequence_);
        status = member_.sendrecv({DataType::kFloat32, a + b - me, counts_[0], counts_[0]},
                                  input_.data(), output_.data());
      }
    }
    return status;
  }

  Member& member_;
  const OpKind kind_;
  const std::vector<uint64_t> counts_;
  std::vector<float> input_;
  std::vector<float> output_;
  uint64_t sequence_ = 1000;
};

}  // namespace khorus::conformance
