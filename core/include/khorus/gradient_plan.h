// Which gradients are reduced together, and where they lie: learnt from a first step.
//
// Front ends ask once, allocate the arena (Engine::allocate) and from then on submit whole buckets.
// Thread rule: any thread. Nothing here blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "khorus/engine.h"
#include "khorus/export.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus {

// One gradient, as the first step has shown it.
struct GradientProfile {
  DataType dtype = DataType::kFloat32;
  uint64_t elements = 0;
  int64_t arrival_us = -1;  // when backward() had it, since the first one; -1: it made none
  bool fits = true;         // false: it cannot be in an arena on this rank
};

struct GradientPlan {
  // Gradients that are reduced as one tensor. They lie next to each other in the order in which
  // they come; a bucket begins at a multiple of 64 bytes.
  struct Bucket {
    std::vector<size_t> gradients;
    DataType dtype = DataType::kFloat32;
    uint64_t elements = 0;
    uint64_t offset_bytes = 0;
  };
  std::vector<Bucket> buckets;  // by the arrival of their last gradient
  uint64_t bytes = 0;           // of the arena
};

// What a reduction costs: a latency, and its bytes at some speed.
struct TransferCost {
  double latency_us = 50;
  double bytes_per_us = 1000;
};

// Cuts the gradients of each data type that fit, in the order of their arrival (those that never
// came last), so that the last reduction ends as early as it can: one starts when its last gradient
// is there and the one before is over. A bucket that is not the last of its type is large enough
// that latency is at most a tenth of it. A pure function.
KHORUS_API GradientPlan plan_gradients(const std::vector<GradientProfile>& gradients,
                                       const TransferCost& cost);

// What the ranks tell each other about their first step: under way until `work` is done.
struct GradientLearning {
  WorkPtr work;
  std::vector<GradientProfile> gradients;
  size_t ranks = 0;
  std::shared_ptr<std::vector<int64_t>> sums;
};

// After the first step, on every rank of the set, with its own profiles of the same gradients;
// returns at once. What a reduction costs is what the engine has seen since it was made. `name`
// names the operation.
KHORUS_API GradientLearning learn_gradients(Engine& engine, const std::string& name,
                                            std::vector<GradientProfile> gradients,
                                            ProcessSetId process_set = kGlobalProcessSet);

// The plan of the gradients that fit on every rank, by their mean arrival and mean cost: the same
// on all ranks, so all can follow it from their next step on. Nothing, when a rank did not take
// part because it has joined: then learn again after the next step, or it would learn alone when it
// is back. REQUIRES: learning.work is done, and was ok.
KHORUS_API std::optional<GradientPlan> learnt_plan(const GradientLearning& learning);

}  // namespace khorus
