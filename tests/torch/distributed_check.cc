// The equivalence of equivalence_test.cc between real processes: khorusrun -np N distributed_check.
// Every rank trains the reference by itself and compares. Prints one line, exits with 1 on failure.
#include <cstdio>
#include <exception>

#include "tests/torch/regression.h"

namespace khorus::torch::testing {
namespace {

bool check(const char* what, const Equivalence& config) {
  const int64_t whole = config.batch * khorus::size() * config.passes;
  const double difference =
      largest_difference(train_together(khorus::engine(), config), train_alone(config, whole));
  const bool good = difference <= tolerance_of(config.dtype);
  std::printf("%s: largest difference %g on rank %d of %d (%s)\n", what, difference, khorus::rank(),
              khorus::size(), good ? "good" : "BAD");
  return good;
}

bool check_all() {
  ::torch::set_num_threads(1);
  Equivalence sgd;
  Equivalence adamw;
  adamw.make_optimizer = make_adamw;
  adamw.passes = 2;
  adamw.dtype = ::torch::kFloat32;
  const bool first = check("sgd, float64", sgd);
  return check("adamw, float32, 2 passes", adamw) && first;
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
