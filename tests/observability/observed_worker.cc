// A rank with something to observe: steps of fused, gathered and broadcast tensors, submitted in
// another order on every rank.
//
//   observed_worker STEPS [DUMPS]
//
// STEPS: -1: until the job breaks; "stuck": three, then rank 1 does nothing more and the others
// wait for its layers until the job breaks; "slow": 120, before each of which rank 1 takes 15 ms.
// "spinning": as "stuck", but rank 1 calculates for ever, and has a thread that blocks all signals.
// DUMPS: after the last step each rank r dumps its flight
// recorder to DUMPSr.
//
// The place and the knobs come from the environment, as from khorusrun. After three steps it writes
// "ready RANK PID" to the descriptor LIFELINE, if there is one; when stuck, after having submitted
// what it waits for. Exits with 0, or 3 when the engine
// failed.
#include <khorus/khorus.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <latch>
#include <string>
#include <thread>
#include <vector>

// Exported, so that its name can be seen in a stack.
extern "C" [[gnu::noinline, gnu::visibility("default")]] void spin_for_ever() {
  volatile uint64_t steps = 0;
  while (true) steps = steps + 1;
}

namespace {

constexpr size_t kLayers = 4;

std::vector<khorus::WorkPtr> submit(std::vector<std::vector<float>>* layers) {
  khorus::Engine& engine = khorus::engine();
  std::vector<khorus::WorkPtr> works;
  for (size_t i = 0; i < kLayers; ++i) {
    const size_t layer = engine.rank() % 2 == 0 ? i : kLayers - 1 - i;
    std::vector<float>& values = layers->at(layer);
    const khorus::TensorView view = khorus::internal::flat_view(values.data(), values.size());
    works.push_back(engine.allreduce_async("layer." + std::to_string(layer), view, view, {}));
  }
  return works;
}

void step(std::vector<std::vector<float>>* layers) {
  khorus::Engine& engine = khorus::engine();
  khorus::throw_if_error(khorus::wait_all(submit(layers)));
  const khorus::TensorView first =
      khorus::internal::flat_view(layers->front().data(), layers->front().size());
  khorus::throw_if_error(engine.allgather_async("rows", first)->wait());
  khorus::throw_if_error(engine.broadcast_async("weights", first, first, 0)->wait());
  khorus::throw_if_error(engine.barrier_async("end of step")->wait());
}

void say_ready() {
  const char* const descriptor = std::getenv("LIFELINE");
  if (descriptor == nullptr) return;
  const std::string text =
      "ready " + std::to_string(khorus::rank()) + " " + std::to_string(getpid()) + "\n";
  if (write(std::atoi(descriptor), text.data(), text.size()) < 0) std::_Exit(4);
}

void start_deaf_thread() {
  std::latch ready(1);
  std::thread([&ready] {
    pthread_setname_np(pthread_self(), "deaf");
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    ready.count_down();
    while (true) pause();
  }).detach();
  ready.wait();
}

void get_stuck(std::vector<std::vector<float>>* layers, bool spinning) {
  if (khorus::rank() == 1) {
    if (spinning) {
      start_deaf_thread();
      spin_for_ever();
    }
    say_ready();
    while (true) pause();
  }
  const std::vector<khorus::WorkPtr> works = submit(layers);
  say_ready();
  khorus::throw_if_error(khorus::wait_all(works));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return 2;
  const bool spinning = argv[1] == std::string("spinning");
  const bool stuck = spinning || argv[1] == std::string("stuck");
  const bool slow = argv[1] == std::string("slow");
  const int steps = stuck ? 3 : slow ? 120 : std::atoi(argv[1]);
  try {
    khorus::init();
    std::vector<std::vector<float>> layers(kLayers);
    for (size_t i = 0; i < kLayers; ++i) layers[i].assign(100 * (i + 1), 1.0F);
    for (int i = 0; i != steps; ++i) {
      if (slow && khorus::rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(15));
      step(&layers);
      if (i == 2 && !stuck) say_ready();
    }
    if (stuck) get_stuck(&layers, spinning);
    if (argc == 3) {
      const std::string path = argv[2] + std::to_string(khorus::rank());
      khorus::throw_if_error(khorus::engine().dump_flight_recorder(path));
    }
    khorus::shutdown();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "observed_worker: %s\n", error.what());
    return 3;
  }
}
