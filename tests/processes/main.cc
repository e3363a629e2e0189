// The ranks of these tests: khorusrun -np N processes_test, or khorusrun --mpi. They start and end
// the default engine; see world.h. Exit code 0 if all tests passed on this rank.
#include <gtest/gtest.h>
#include <khorus/khorus.h>

#include <cstdio>

namespace {

// Rank 0 prints the list of tests; of the others only what failed is of interest.
class Failures : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "%s:%d: %s\n", result.file_name(), result.line_number(), result.message());
  }
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {
    khorus::init();
    if (khorus::rank() > 0) {
      auto& listeners = testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
      listeners.Append(new Failures);
    }
    const int result = RUN_ALL_TESTS();
    khorus::shutdown();
    return result;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "processes_test: %s\n", error.what());
    return 1;
  }
}
