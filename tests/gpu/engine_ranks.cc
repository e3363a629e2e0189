// The ranks of test_engine.py: khorusrun -np N gpu_engine_ranks WHAT.
//
//   mixed    tensors of the GPU and of the CPU in one program; exit code 0 if the sums are right
//   adasum   where the odd ranks can load no kernels; exit code 0 if it is what its definition
//   says,
//            to the bit the same on all ranks
//   cpu      tensors of the CPU only; prints the GPU libraries that are in the process
//   refused  a tensor of a GPU where there may be none; prints why not
//   message  the first operation on a GPU is a message from the first rank to the last, the next
//            one a sum of all; exit code 0 if they are right
//   blind    the same message; the second rank has hidden its GPU from itself. The two print what
//            they got, then all sum up on the CPU
//   stopped  the same message; the second rank, which has no part in it, stops itself before. The
//            two print what they got and after how many milliseconds
//   killed   the last rank kills itself while an operation is on everybody's device; the others
//            print what they got and after how many milliseconds
#include <khorus/device.h>
#include <khorus/khorus.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "tests/adasum.h"
#include "tests/gpu/framework.h"

namespace {

using khorus::Engine;
using khorus::Status;
using khorus::TensorView;
using khorus::WorkPtr;
using khorus::test::Framework;

khorus::AllreduceOptions sum() {
  khorus::AllreduceOptions options;
  options.op = khorus::ReduceOp::kSum;
  return options;
}

TensorView view_of(std::vector<float>& values) {
  TensorView view;
  view.data = values.data();
  view.shape = {static_cast<int64_t>(values.size())};
  return view;
}

int own_device() {
  const auto driver = khorus::backends::nccl::Driver::load();
  return khorus::local_rank() % (driver.ok() ? (*driver)->devices : 1);
}

int run_mixed(Engine& engine) {
  Framework gpu(own_device());
  const float expected = static_cast<float>(engine.size() * (engine.size() + 1)) / 2;
  const float mine = static_cast<float>(engine.rank() + 1);
  for (int step = 0; step < 20; ++step) {
    std::vector<TensorView> tensors;
    std::vector<std::vector<float>> hosts(8, std::vector<float>(100, mine));
    std::vector<WorkPtr> works;
    for (size_t i = 0; i < hosts.size(); ++i) {
      tensors.push_back(gpu.tensor(std::vector<float>(1000 * (i + 1), mine)));
      const std::string name = std::to_string(i);
      works.push_back(engine.allreduce_async("g" + name, tensors[i], tensors[i], sum()));
      works.push_back(
          engine.allreduce_async("c" + name, view_of(hosts[i]), view_of(hosts[i]), sum()));
    }
    for (const WorkPtr& work : works) {
      const Status status = khorus::wait_on_stream(*work, gpu.stream());
      if (status.ok()) continue;
      std::fprintf(stderr, "%s\n", status.to_string().c_str());
      return 1;
    }
    for (size_t i = 0; i < hosts.size(); ++i) {
      const std::vector<float> wanted(1000 * (i + 1), expected);
      if (gpu.read<float>(tensors[i]) != wanted || hosts[i] != std::vector<float>(100, expected)) {
        std::fprintf(stderr, "a sum of step %d is wrong\n", step);
        return 1;
      }
    }
    if (!khorus::wait_all(works).ok()) return 1;
  }
  return 0;
}

// Ranks with kernels and without take part in the same messages.
int run_adasum(Engine& engine) {
  Framework gpu(own_device());
  const auto vectors = khorus::test::adasum_vectors(engine.size(), 10'007);
  const std::vector<double> expected = khorus::test::adasum_of(vectors);
  const std::vector<double>& mine = vectors[static_cast<size_t>(engine.rank())];
  const TensorView tensor = gpu.tensor(mine, khorus::DataType::kFloat64);
  khorus::AllreduceOptions options;
  options.op = khorus::ReduceOp::kAdasum;
  const Status status = engine.allreduce_async("a", tensor, tensor, options)->wait();
  const std::vector<double> values = gpu.read<double>(tensor);
  TensorView first = gpu.tensor(values, khorus::DataType::kFloat64);
  const Status told = engine.broadcast_async("first", first, first, 0)->wait();
  if (!status.ok() || !told.ok()) {
    std::fprintf(stderr, "%s, %s\n", status.to_string().c_str(), told.to_string().c_str());
    return 1;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::abs(values[i] - expected[i]) < 1e-12) continue;
    std::fprintf(stderr, "%zu: %.17g instead of %.17g\n", i, values[i], expected[i]);
    return 1;
  }
  return values == gpu.read<double>(first) ? 0 : 1;
}

int run_cpu(Engine& engine) {
  std::vector<float> values(100, 1);
  if (!engine.allreduce_async("c", view_of(values), view_of(values), sum())->wait().ok()) return 1;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("libcuda.so") != std::string::npos || line.find("libnccl") != std::string::npos) {
      std::printf("%s\n", line.c_str());
    }
  }
  std::printf("done\n");
  return 0;
}

int run_refused(Engine& engine) {
  std::vector<float> values(100, 1);
  TensorView view = view_of(values);
  view.device.kind = khorus::DeviceKind::kCuda;
  const Status status = engine.allreduce_async("g", view, view, sum())->wait();
  std::printf("%s\n", status.to_string().c_str());
  // The engine goes on.
  view.device = {};
  return engine.allreduce_async("c", view, view, sum())->wait().ok() ? 0 : 1;
}

WorkPtr message(Engine& engine, const TensorView& tensor) {
  return engine.rank() == 0 ? engine.send_async(tensor, engine.size() - 1)
                            : engine.recv_async(tensor, 0);
}

bool has_message(const Engine& engine) {
  return engine.rank() == 0 || engine.rank() == engine.size() - 1;
}

int run_message(Engine& engine) {
  const std::vector<float> ones(1000, 1);
  if (has_message(engine)) {
    Framework gpu(own_device());
    const TensorView tensor = gpu.tensor(engine.rank() == 0 ? ones : std::vector<float>(1000));
    if (!message(engine, tensor)->wait().ok() || gpu.read<float>(tensor) != ones) return 1;
  }
  if (!engine.barrier_async()->wait().ok()) return 1;
  Framework gpu(own_device());
  const TensorView tensor = gpu.tensor(ones);
  if (!engine.allreduce_async("sum", tensor, tensor, sum())->wait().ok()) return 1;
  const std::vector<float> wanted(1000, static_cast<float>(engine.size()));
  return gpu.read<float>(tensor) == wanted ? 0 : 1;
}

int run_blind(Engine& engine) {
  if (engine.rank() == 1) {
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    setenv("KHORUS_DOUBLE_DEVICES", "0", 1);
  }
  if (has_message(engine)) {
    Framework gpu(own_device());
    const TensorView tensor = gpu.tensor(std::vector<float>(1000, 1));
    std::printf("%s\n", message(engine, tensor)->wait().to_string().c_str());
    gpu.read<float>(tensor);
  }
  std::vector<float> values(100, 1);
  if (!engine.allreduce_async("c", view_of(values), view_of(values), sum())->wait().ok()) return 1;
  return values == std::vector<float>(100, static_cast<float>(engine.size())) ? 0 : 1;
}

int run_stopped(Engine& engine) {
  if (!engine.barrier_async()->wait().ok()) return 1;
  if (!has_message(engine)) return raise(SIGSTOP);
  Framework gpu(own_device());
  const TensorView tensor = gpu.tensor(std::vector<float>(1000, 1));
  const auto begun = std::chrono::steady_clock::now();
  const Status status = message(engine, tensor)->wait();
  const auto took = std::chrono::steady_clock::now() - begun;
  gpu.read<float>(tensor);
  std::printf(
      "after %lld ms: %s\n",
      static_cast<long long>(std::chrono::duration_cast<std::chrono::milliseconds>(took).count()),
      status.to_string().c_str());
  std::fflush(stdout);
  return status.ok() ? 0 : 1;  // the launcher ends who is stopped
}

int run_killed(Engine& engine) {
  Framework gpu(own_device());
  const TensorView tensor = gpu.tensor(std::vector<float>(1000, 1));
  const TensorView other = gpu.tensor(std::vector<float>(1000, 1));
  if (!engine.allreduce_async("first", tensor, tensor, sum())->wait().ok()) return 1;
  const bool is_victim = engine.rank() == engine.size() - 1;
  std::atomic<bool> never{false};
  if (is_victim) {
    gpu.call([](void* data) { static_cast<std::atomic<bool>*>(data)->wait(false); }, &never);
  }
  const WorkPtr work = engine.allreduce_async("second", tensor, tensor, sum());
  const WorkPtr next = engine.allreduce_async("third", other, other, sum());
  const Status ordered = khorus::wait_on_stream(*work, gpu.stream());
  if (is_victim && ordered.ok()) raise(SIGKILL);
  // The victim may be faster than this rank, which then hears of it here already.
  if (!ordered.ok() && ordered.code() != khorus::StatusCode::kPeerLost) return 1;
  const auto begun = std::chrono::steady_clock::now();
  const Status status = work->wait();
  const Status after = next->wait();
  const auto took = std::chrono::steady_clock::now() - begun;
  std::printf(
      "after %lld ms: %s | %s\n",
      static_cast<long long>(std::chrono::duration_cast<std::chrono::milliseconds>(took).count()),
      status.to_string().c_str(), after.to_string().c_str());
  std::fflush(stdout);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc == 2 ? argv[1] : "";
  const char* const rank = std::getenv("KHORUS_RANK");
  if (what == "adasum" && rank != nullptr && std::atoi(rank) % 2 == 1) {
    ::setenv("KHORUS_DOUBLE_NO_MODULES", "1", 1);
  }
  try {
    khorus::init();
    Engine& engine = khorus::engine();
    int result = 2;
    if (what == "mixed") result = run_mixed(engine);
    if (what == "adasum") result = run_adasum(engine);
    if (what == "cpu") result = run_cpu(engine);
    if (what == "refused") result = run_refused(engine);
    if (what == "message") result = run_message(engine);
    if (what == "blind") result = run_blind(engine);
    if (what == "stopped") result = run_stopped(engine);
    if (what == "killed") result = run_killed(engine);
    khorus::shutdown();
    return result;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_engine_ranks: %s\n", error.what());
    return 1;
  }
}
