// The equivalence of equivalence_test.cc between real processes: khorusrun -np N distributed_check.
// Every optimizer, fresh and used, and every option. Every rank trains the reference by itself and
// compares. Prints a line per check, exits with 1 on failure. With KHORUS_TEST_SOAK the runs are
// of full length.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "tests/torch/optimizers.h"
#include "tests/torch/regression.h"
#include "tests/torch/variants.h"

namespace khorus::torch::testing {
namespace {

bool check(const std::string& what, const Equivalence& config, double tolerance) {
  const int64_t whole = config.batch * khorus::size() * config.passes;
  const double difference =
      largest_difference(train_together(khorus::engine(), config), train_alone(config, whole));
  const bool good = difference <= tolerance;
  std::printf("%s: largest difference %g on rank %d of %d (%s)\n", what.c_str(), difference,
              khorus::rank(), khorus::size(), good ? "good" : "BAD");
  return good;
}

bool check_all() {
  ::torch::set_num_threads(1);
  const bool soak = std::getenv("KHORUS_TEST_SOAK") != nullptr;
  bool good = true;
  for (const OptimizerKind& kind : optimizer_kinds()) {
    for (const int64_t steps_before : {0, 2}) {
      Equivalence config;
      config.make_optimizer = [&kind](std::vector<Tensor> parameters) {
        return kind.make(std::move(parameters), 0.02);
      };
      config.closure = std::string(kind.family) == "LBFGS";
      config.steps = config.closure ? (soak ? 8 : 4) : (soak ? 50 : 6);
      config.steps_before = steps_before;
      const std::string state = steps_before == 0 ? ", fresh" : ", used";
      good &= check(kind.name + state, config, config.closure ? 1e-7 : 1e-9);
    }
  }
  for (const Variant& variant : variants()) {
    Equivalence config;
    config.make_optimizer = make_adamw;
    config.steps = soak ? 50 : 6;
    variant.change(config);
    good &= check(variant.name, config, variant.tolerance);
  }
  Equivalence narrow;
  narrow.dtype = ::torch::kFloat32;
  narrow.steps = soak ? 50 : 6;
  return check("float32", narrow, tolerance_of(narrow.dtype)) && good;
}

}  // namespace
}  // namespace khorus::torch::testing

int main() {
  try {
    khorus::init();
    const bool good = khorus::torch::testing::check_all();
    std::printf("backend %s\n", khorus::engine().backend_name().c_str());
    khorus::shutdown();
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "distributed_check: %s\n", error.what());
    return 1;
  }
}
