// How fast gradients are packed and unpacked on a GPU, against one copy of as many bytes:
//
//   gpu_bandwidth [--smaller N] [--seconds S]
//
// The gradients of ResNet-50 and of GPT-2, and one huge tensor beside a tiny one, each tensor in
// memory of its own kind of alignment, as a framework's allocator gives it. GB/s are bytes of the
// tensors by time, with all the host does for it. What is packed and unpacked again is compared
// with what it was. --smaller N: tensors of an N-th, to see that it works. Exit code 77: this build
// has no kernels.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backends/nccl/device.h"
#include "backends/nccl/driver.h"
#include "backends/nccl/mover.h"

namespace {

using namespace khorus::backends::nccl;
using khorus::DataType;
using khorus::Result;
using khorus::Status;
using Counts = std::vector<size_t>;

void check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "gpu_bandwidth: %s\n", status.to_string().c_str());
  std::exit(1);
}

// He et al., "Deep Residual Learning", 2015.
Counts resnet50() {
  Counts counts;
  const auto convolution = [&](size_t outputs, size_t inputs, size_t kernel) {
    counts.insert(counts.end(), {outputs * inputs * kernel * kernel, outputs, outputs});
  };
  convolution(64, 3, 7);
  size_t inputs = 64;
  const size_t blocks[] = {3, 4, 6, 3};
  for (size_t stage = 0; stage < 4; ++stage) {
    const size_t width = size_t{64} << stage;
    for (size_t block = 0; block < blocks[stage]; ++block) {
      convolution(width, inputs, 1);
      convolution(width, width, 3);
      convolution(4 * width, width, 1);
      if (block == 0) convolution(4 * width, inputs, 1);
      inputs = 4 * width;
    }
  }
  counts.insert(counts.end(), {2048 * 1000, 1000});
  return counts;
}

// Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
Counts gpt2() {
  constexpr size_t kWidth = 768;
  Counts counts = {50257 * kWidth, 1024 * kWidth};
  for (int layer = 0; layer < 12; ++layer) {
    for (const size_t outputs : {3 * kWidth, kWidth, 4 * kWidth}) {
      counts.insert(counts.end(), {outputs * kWidth, outputs});
    }
    counts.insert(counts.end(), {4 * kWidth * kWidth, kWidth, kWidth, kWidth, kWidth, kWidth});
  }
  return counts;
}

// Some tensors apart, a place for them side by side, and another one apart.
class Tensors {
 public:
  Tensors(Device& device, DataType dtype, const Counts& counts) : device_(device), dtype_(dtype) {
    constexpr size_t kApart = 512;
    size_t apart = 0;
    for (const size_t count : counts) {
      const size_t bytes = count * element_size(dtype);
      tensors_.push_back({apart, bytes_, bytes});
      apart += (bytes + kApart - 1) / kApart * kApart;
      bytes_ += bytes;
    }
    values_.resize(apart);
    std::minstd_rand random;
    for (std::byte& value : values_) value = static_cast<std::byte>(random());
    for (Block* block : {&source_, &target_, &packed_}) {
      check(device.status_of(device.driver().mem_alloc(block, apart), "cuMemAlloc"));
      check(device.status_of(device.driver().mem_set(*block, 0, apart, device.stream()),
                             "cuMemsetD8Async"));
    }
    check(device.copy_from_host(at(source_, 0), values_.data(), apart));
  }
  ~Tensors() {
    for (const Block block : {source_, target_, packed_}) device_.driver().mem_free(block);
  }
  Tensors(const Tensors&) = delete;
  Tensors& operator=(const Tensors&) = delete;

  size_t bytes() const { return bytes_; }
  size_t size() const { return tensors_.size(); }

  void pack(Mover& mover, double factor) const {
    MoveList list{.dtype = dtype_, .scaling = {factor, 1}};
    for (const Tensor& tensor : tensors_) {
      list.add(at(packed_, tensor.packed), at(source_, tensor.apart), tensor.bytes);
    }
    move(mover, &list);
  }
  void unpack(Mover& mover, double factor) const {
    MoveList list{.dtype = dtype_, .scaling = {factor, 1}};
    for (const Tensor& tensor : tensors_) {
      list.add(at(target_, tensor.apart), at(packed_, tensor.packed), tensor.bytes);
    }
    move(mover, &list);
  }
  void copy() const { check(device_.copy(at(target_, 0), at(source_, 0), bytes_)); }
  // Whether the target has the values, after pack() and unpack().
  bool are_back() const {
    std::vector<std::byte> back(values_.size());
    check(device_.copy_to_host(back.data(), at(target_, 0), back.size()));
    synchronise();
    for (const Tensor& tensor : tensors_) {
      if (std::memcmp(&back[tensor.apart], &values_[tensor.apart], tensor.bytes) != 0) return false;
    }
    return true;
  }
  void synchronise() const {
    check(device_.status_of(device_.driver().stream_synchronize(device_.stream()),
                            "cuStreamSynchronize"));
  }

 private:
  using Block = CUdeviceptr;
  struct Tensor {
    size_t apart;
    size_t packed;
    size_t bytes;
  };
  static std::byte* at(Block block, size_t offset) {
    return reinterpret_cast<std::byte*>(block) + offset;
  }
  static void move(Mover& mover, MoveList* list) {
    check(mover.upload({list}));
    check(mover.run(*list));
  }

  Device& device_;
  const DataType dtype_;
  std::vector<Tensor> tensors_;
  size_t bytes_ = 0;
  std::vector<std::byte> values_;
  Block source_ = 0, target_ = 0, packed_ = 0;
};

// GB/s of the tensors' bytes, when it is done again and again for `seconds`.
double bandwidth(const Tensors& tensors, double seconds, const std::function<void()>& once) {
  using Clock = std::chrono::steady_clock;
  once();
  tensors.synchronise();
  for (int rounds = 1;; rounds *= 2) {
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < rounds; ++i) once();
    tensors.synchronise();
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    if (took >= seconds) return static_cast<double>(tensors.bytes()) * rounds / took * 1e-9;
  }
}

// Whether the values came back.
bool measure(Device& device, Mover& mover, const char* name, DataType dtype, const Counts& counts,
             double seconds) {
  const Tensors tensors(device, dtype, counts);
  Mover copies(device, nullptr);
  tensors.pack(mover, 1);
  tensors.unpack(mover, 1);
  const bool are_back = tensors.are_back();
  const auto time = [&](const std::function<void()>& once) {
    return bandwidth(tensors, seconds, once);
  };
  std::printf("%-10s %-9s %7zu %12zu %9.1f %9.1f %9.1f %9.1f %9.1f %9.1f%s\n", name,
              std::string(to_string(dtype)).c_str(), tensors.size(), tensors.bytes(),
              time([&] { tensors.copy(); }), time([&] { tensors.pack(mover, 1); }),
              time([&] { tensors.unpack(mover, 1); }), time([&] { tensors.pack(mover, 0.5); }),
              time([&] { tensors.unpack(mover, 0.5); }), time([&] { tensors.pack(copies, 1); }),
              are_back ? "" : "   WRONG VALUES");
  std::fflush(stdout);
  return are_back;
}

}  // namespace

int main(int argc, char** argv) {
  size_t smaller = 1;
  double seconds = 0.1;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string(argv[i]) == "--smaller") smaller = std::strtoull(argv[i + 1], nullptr, 10);
    if (std::string(argv[i]) == "--seconds") seconds = std::strtod(argv[i + 1], nullptr);
  }
  const Result<const Driver*> driver = Driver::load();
  check(driver.status());
  auto device = Device::open(**driver, 0);
  check(device.status());
  const DeviceScope scope(**driver, (*device)->context());
  auto module = Module::load(**driver, (*device)->context());
  if (!module) {
    std::printf("no kernels: %s\n", module.status().message().c_str());
    return 77;
  }
  Mover mover(**device, std::move(*module));
  std::printf(
      "# GB/s of the tensors' bytes; \"scaled\": by 0.5; \"by copies\": one for each tensor\n");
  std::printf("#%-9s %-9s %7s %12s %9s %9s %9s %9s %9s %9s\n", "tensors", "type", "number", "bytes",
              "one copy", "pack", "unpack", "scaled", "scaled", "by copies");
  bool all_are_back = true;
  for (const DataType dtype : {DataType::kFloat32, DataType::kBfloat16}) {
    const std::pair<const char*, Counts> lists[] = {
        {"resnet50", resnet50()}, {"gpt2", gpt2()}, {"huge", {1, 100'000'000}}};
    for (const auto& [name, counts] : lists) {
      Counts some = counts;
      for (size_t& count : some) count = count / smaller + 1;
      all_are_back &= measure(**device, mover, name, dtype, some, seconds);
    }
  }
  return all_are_back ? 0 : 1;
}
