// The smallest Khorus program: every rank contributes its rank, every rank gets the sum.
//
//   khorusrun -np 4 ./allreduce_hello
//   ./allreduce_hello                     # alone: a world of one rank
#include <khorus/khorus.h>

#include <cstdio>
#include <exception>
#include <vector>

int main() {
  try {
    khorus::init();
    const int rank = khorus::rank();
    const int size = khorus::size();

    // In place: after the call x holds the sum over all ranks, 0 + 1 + ... + (size - 1).
    std::vector<float> x(1024, static_cast<float>(rank));
    khorus::allreduce("x", x.data(), x.size(), khorus::ReduceOp::kSum);

    const float expected = static_cast<float>(size * (size - 1)) / 2;
    for (const float value : x) {
      if (value != expected) {
        std::fprintf(stderr, "rank %d got %g instead of %g\n", rank, value, expected);
        return 1;
      }
    }
    std::printf("hello from rank %d of %d (local rank %d of %d): the ranks sum to %g\n", rank, size,
                khorus::local_rank(), khorus::local_size(), x[0]);
    khorus::shutdown();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "allreduce_hello: %s\n", error.what());
    return 1;
  }
}
