// Two Gloos in one process, two ranks or more: torch's own, inside libtorch, and Debian's, inside
// our backend plugin. Their symbols have equal names; this program fails when they are mixed up.
//
//   khorusrun -np 2 two_gloos torch-first STORE_FILE
//   khorusrun -np 2 two_gloos khorus-first STORE_FILE
//
// STORE_FILE is a path where no file is yet: torch's ranks meet there.
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "khorus/torch.h"

namespace {

int from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) throw std::runtime_error(std::string(name) + " is not set: use khorusrun");
  return std::stoi(text);
}

c10::intrusive_ptr<c10d::ProcessGroupGloo> start_torch_gloo(const std::string& store_file) {
  const int rank = from_environment("KHORUS_RANK"), size = from_environment("KHORUS_SIZE");
  auto store = c10::make_intrusive<c10d::FileStore>(store_file, size);
  auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::seconds(60));
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1"));
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
}

bool all_equal(const torch::Tensor& tensor, double expected, const char* whose, int round) {
  if (tensor.eq(expected).all().item<bool>()) return true;
  std::fprintf(stderr, "round %d: %s Gloo gave %g instead of %g\n", round, whose,
               tensor.flatten()[0].item<double>(), expected);
  return false;
}

// Both at work at the same time, small and large.
bool alternate(c10d::ProcessGroupGloo& theirs) {
  const double sum = khorus::size() * (khorus::size() + 1) / 2.0;
  bool good = true;
  for (int round = 1; round <= 20; ++round) {
    const int64_t count = round % 2 == 0 ? 3 : 200'000;
    const torch::Tensor mine = torch::full({count}, (khorus::rank() + 1) * round, torch::kFloat64);
    std::vector<torch::Tensor> other = {mine.clone()};
    khorus::torch::ReduceOptions options;
    options.name = "round";
    options.op = khorus::ReduceOp::kSum;
    auto work = theirs.allreduce(other);
    khorus::torch::Handle handle = khorus::torch::allreduce_async(mine, options);
    good &= all_equal(handle.wait(), sum * round, "our", round);
    work->wait();
    good &= all_equal(other[0], sum * round, "torch's", round);
  }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: two_gloos torch-first|khorus-first STORE_FILE\n");
    return 2;
  }
  try {
    const bool torch_first = std::string(argv[1]) == "torch-first";
    c10::intrusive_ptr<c10d::ProcessGroupGloo> theirs;
    if (torch_first) theirs = start_torch_gloo(argv[2]);
    khorus::init();
    if (!torch_first) theirs = start_torch_gloo(argv[2]);
    const bool good = alternate(*theirs) && khorus::engine().backend_name() == "gloo";
    std::printf("rank %d: backend %s and torch's %s: %s\n", khorus::rank(),
                khorus::engine().backend_name().c_str(), theirs->getBackendName().c_str(),
                good ? "good" : "BAD");
    khorus::barrier();  // torch's group is left when both are idle
    theirs.reset();
    khorus::shutdown();
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "two_gloos: %s\n", error.what());
    return 1;
  }
}
