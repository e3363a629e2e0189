// The options of DistributedOptimizer under which N ranks are still one rank with the whole batch,
// and how closely.
#pragma once

#include <vector>

#include "tests/torch/regression.h"

namespace khorus::torch::testing {

struct Variant {
  const char* name;
  double tolerance;  // of float64 parameters after 50 steps
  std::function<void(Equivalence&)> change;
};

inline void with_options(Equivalence& config,
                         std::function<void(DistributedOptimizerOptions&)> change) {
  config.change = std::move(change);
}

inline std::vector<Variant> variants() {
  return {
      {"Plain", 1e-9, [](Equivalence&) {}},
      {"Sum", 1e-9,
       [](Equivalence& c) { with_options(c, [](auto& o) { o.op = ReduceOp::kSum; }); }},
      {"Predivided", 1e-9,
       [](Equivalence& c) { with_options(c, [](auto& o) { o.gradient_predivide_factor = 3; }); }},
      {"OneGroup", 1e-9,
       [](Equivalence& c) { with_options(c, [](auto& o) { o.num_groups = 1; }); }},
      {"ThreeGroups", 1e-9,
       [](Equivalence& c) { with_options(c, [](auto& o) { o.num_groups = 3; }); }},
      {"OwnGroups", 1e-9,
       [](Equivalence& c) {
         c.group = [](const std::vector<Tensor>& p) {
           return std::vector<std::vector<Tensor>>{{p[0], p[5]}, {p[3], p[2], p[1]}};
         };
       }},
      {"SparseAsDense", 1e-9,
       [](Equivalence& c) { with_options(c, [](auto& o) { o.sparse_as_dense = true; }); }},
      {"Named", 1e-9, [](Equivalence& c) { with_options(c, [](auto& o) { o.name = "net"; }); }},
      {"Fp16", 5e-3,
       [](Equivalence& c) { with_options(c, [](auto& o) { o.compression = Compression::fp16; }); }},
      {"Bf16", 5e-2,
       [](Equivalence& c) { with_options(c, [](auto& o) { o.compression = Compression::bf16; }); }},
      {"TwoPassesPredividedFp16InGroups", 5e-3,
       [](Equivalence& c) {
         c.passes = 2;
         with_options(c, [](auto& o) {
           o.gradient_predivide_factor = 2;
           o.compression = Compression::fp16;
           o.num_groups = 2;
         });
       }},
  };
}

}  // namespace khorus::torch::testing
