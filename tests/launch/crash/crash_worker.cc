// A rank that works until something breaks: the program that crash_test kills.
//
//   crash_worker LEASH REPORT SEED STEPS [VICTIM]
//
// LEASH: a descriptor that ends when the test is over; REPORT: a pipe to the test. The place, the
// store and the key come from the environment, as from khorusrun. It forks a child that lives as a
// data-loader worker does (it holds what it inherited until the leash ends), writes "ready" to the
// report, runs STEPS steps of operations of random sizes in a random order (-1: for ever; with a
// VICTIM the others then wait in a barrier that the victim does not enter), writes "worked" after
// the first one, and "done" or "failed CODE LOST_RANK MESSAGE". Exits with 0 or 3.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "khorus/khorus.h"

namespace {

struct Arguments {
  int leash;
  int report;
  unsigned seed;
  int steps;
};

void report(int descriptor, const std::string& line) {
  const std::string text = line + "\n";
  if (write(descriptor, text.data(), text.size()) < 0) std::_Exit(4);
}

// Lives until the leash ends, as its owner's sockets must not.
void start_data_loader(const Arguments& arguments) {
  if (fork() != 0) return;
  close(arguments.report);
  char byte = 0;
  const ssize_t ended = read(arguments.leash, &byte, 1);
  std::_Exit(ended == 0 ? 0 : 1);
}

void step(std::mt19937& shared, std::mt19937& own, std::vector<std::vector<float>>& tensors) {
  // Sizes and operations are equal on all ranks, the order is not.
  std::vector<size_t> order;
  for (size_t t = 0; t < tensors.size(); ++t) {
    tensors[t].assign(1 + shared() % (t == 0 ? 1000000 : 3000), 1.0F);
    order.push_back(t);
  }
  const int root = static_cast<int>(shared() % static_cast<unsigned>(khorus::size()));
  std::shuffle(order.begin(), order.end(), own);
  std::vector<khorus::WorkPtr> works;
  for (const size_t t : order) {
    khorus::TensorView view;
    view.data = tensors[t].data();
    view.shape = {static_cast<int64_t>(tensors[t].size())};
    const std::string name = "tensor." + std::to_string(t);
    khorus::Engine& engine = khorus::engine();
    if (t % 4 == 1) {
      works.push_back(engine.broadcast_async(name, view, view, root));
    } else if (t % 4 == 2) {
      works.push_back(engine.allgather_async(name, view));
    } else {
      works.push_back(engine.allreduce_async(name, view, view, {}));
    }
  }
  khorus::throw_if_error(khorus::wait_all(works));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) return 2;
  const Arguments arguments{std::atoi(argv[1]), std::atoi(argv[2]),
                            static_cast<unsigned>(std::atoi(argv[3])), std::atoi(argv[4])};
  try {
    khorus::init();
    start_data_loader(arguments);
    report(arguments.report, "ready");
    std::mt19937 shared(arguments.seed);
    std::mt19937 own(arguments.seed + static_cast<unsigned>(khorus::rank()) + 1);
    std::vector<std::vector<float>> tensors(8);
    for (int i = 0; i != arguments.steps; ++i) {
      step(shared, own, tensors);
      if (i == 0) report(arguments.report, "worked");
    }
    if (argc == 6) {
      if (khorus::rank() == std::atoi(argv[5])) pause();
      khorus::barrier();
    }
    khorus::shutdown();
    report(arguments.report, "done");
    return 0;
  } catch (const khorus::Error& error) {
    report(arguments.report, "failed " + std::to_string(static_cast<int>(error.status().code())) +
                                 " " + std::to_string(error.status().lost_rank()) + " " +
                                 error.status().message());
    return 3;
  }
}
