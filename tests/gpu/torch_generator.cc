// Random numbers on the tests' device: a generator is a seed and how many operations have drawn
// from it, as those of CUDA are. An operation draws from a generator of the CPU that these two
// seed.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GeneratorImpl.h>

#include <array>
#include <cstring>
#include <map>
#include <mutex>

#include "tests/gpu/torch_device_parts.h"

namespace khorus::gpu_double {
namespace {

class DeviceGenerator final : public c10::GeneratorImpl {
 public:
  explicit DeviceGenerator(at::Device device)
      : c10::GeneratorImpl(device, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}

  void set_current_seed(uint64_t seed) override { state_ = {seed, 0}; }
  uint64_t current_seed() const override { return state_[0]; }
  uint64_t seed() override {
    set_current_seed(c10::detail::getNonDeterministicRandom());
    return current_seed();
  }
  void set_offset(uint64_t offset) override { state_[1] = offset; }
  uint64_t get_offset() const override { return state_[1]; }

  void set_state(const c10::TensorImpl& state) override {
    TORCH_CHECK(state.numel() == sizeof state_, "not a state of this device's generator");
    std::memcpy(state_.data(), state.data(), sizeof state_);
  }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    const at::Tensor state = at::empty({sizeof state_}, at::kByte);
    std::memcpy(state.data_ptr(), state_.data(), sizeof state_);
    return state.getIntrusivePtr();
  }

 private:
  DeviceGenerator* clone_impl() const override {
    auto* const made = new DeviceGenerator(device());
    made->state_ = state_;
    return made;
  }

  std::array<uint64_t, 2> state_{c10::default_rng_seed_val, 0};
};

}  // namespace

const at::Generator& default_generator(int device) {
  static auto* const mutex = new std::mutex;
  static auto* const all = new std::map<int, at::Generator>;
  const std::scoped_lock lock(*mutex);
  auto& generator = (*all)[device];
  if (!generator.defined()) {
    const at::Device place(kDevice, static_cast<at::DeviceIndex>(device));
    generator = at::make_generator<DeviceGenerator>(place);
  }
  return generator;
}

at::Generator generator_for_operation(at::Generator generator) {
  const std::scoped_lock lock(generator.mutex());
  const uint64_t drawn = generator.get_offset();
  generator.set_offset(drawn + 1);
  return at::make_generator<at::CPUGeneratorImpl>(generator.current_seed() * 1'000'003 + drawn);
}

}  // namespace khorus::gpu_double
