// A user's program on the core library: sums the ranks and prints what came out.
#include <khorus/khorus.h>

#include <cstdio>
#include <vector>

int main() {
  khorus::init();
  std::vector<float> values(1000, static_cast<float>(khorus::rank() + 1));
  khorus::allreduce("values", values.data(), values.size(), khorus::ReduceOp::kSum);
  std::printf("size %d sum %g %g\n", khorus::size(), static_cast<double>(values.front()),
              static_cast<double>(values.back()));
  khorus::shutdown();
}
