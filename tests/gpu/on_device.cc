// OnDevice over CUDA's driver: the real one or the double.
//
// Plays the framework: a stream that copies the input to the device, waits for the operation by
// order(), and copies the output back. Every other operation gets a ready event, the others the
// stream itself.
#include "tests/conformance/on_device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "backends/nccl/device.h"
#include "backends/nccl/driver.h"

namespace khorus::conformance {
namespace {

using backends::nccl::Device;
using backends::nccl::DeviceScope;
using backends::nccl::Driver;
using backends::nccl::Progress;

// A test whose own copies fail cannot go on.
void check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "the test's own work on the GPU: %s\n", status.to_string().c_str());
  std::abort();
}
template <class T>
T value_of(const Result<T>& result) {
  check(result.status());
  return *result;
}

// Memory of the device while it lives.
class Block {
 public:
  Block(const Device& device, uint64_t bytes) : device_(device), bytes_(bytes) {
    if (bytes > 0) {
      check(device.status_of(device.driver().mem_alloc(&address_, bytes), "cuMemAlloc"));
    }
  }
  ~Block() {
    if (bytes_ > 0) device_.driver().mem_free(address_);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }

 private:
  const Device& device_;
  const uint64_t bytes_;
  CUdeviceptr address_ = 0;
};

class DriverDevice : public OnDevice {
 public:
  DriverDevice(std::unique_ptr<Device> device, int ordinal)
      : device_(std::move(device)), ordinal_(ordinal) {}
  int device() const override { return ordinal_; }

  int32_t run(const khorus_backend& backend, khorus_comm* comm, const khorus_op& op,
              const Bytes& bytes, khorus_error* error) override {
    const DeviceScope scope(device_->driver(), device_->context());
    const auto* const input = static_cast<const std::byte*>(op.input);
    auto* const output = static_cast<std::byte*>(op.output);
    const bool is_inside =
        bytes.input > 0 && input >= output && input + bytes.input <= output + bytes.output;
    Block there(*device_, bytes.output);
    Block apart(*device_, is_inside ? 0 : bytes.input);
    khorus_op moved = op;
    moved.output = there.data();
    moved.input = is_inside ? there.data() + (input - output) : apart.data();
    moved.stream = device_->stream();
    if (bytes.output > 0) check(device_->copy_from_host(there.data(), output, bytes.output));
    if (!is_inside && bytes.input > 0) {
      check(device_->copy_from_host(apart.data(), input, bytes.input));
    }
    CUevent ready = nullptr;
    if (op.sequence % 2 == 0)
      moved.ready_event = ready = value_of(device_->record(device_->stream()));

    int32_t code = backend.run(comm, &moved, error);
    if (code == 0) {
      code = backend.order(comm, op.sequence, device_->stream(), error);
      if (code == 0) copy_back(op, bytes, there.data(), is_inside ? nullptr : apart.data());
      // Also after a failure: before it the memory is the backend's.
      const int32_t finished = backend.finish(comm, op.sequence, error);
      if (finished != 0) code = finished;
    }
    synchronise();
    if (ready != nullptr) device_->give_back(ready);
    return code;
  }

 private:
  // `apart`: the input, if it does not lie in the output; to see that it was not written to.
  void copy_back(const khorus_op& op, const Bytes& bytes, const std::byte* there,
                 const std::byte* apart) {
    if (bytes.output > 0) check(device_->copy_to_host(op.output, there, bytes.output));
    if (apart == nullptr || bytes.input == 0) return;
    check(device_->copy_to_host(const_cast<void*>(op.input), apart, bytes.input));
  }
  void synchronise() {
    const CUevent last = value_of(device_->record(device_->stream()));
    const auto progress = std::make_shared<Progress>();
    check(device_->tell(last, progress, 1));
    if (!progress->wait(1, std::chrono::seconds(60))) {
      check(Status(StatusCode::kTimeout, "the stream does not come to its end"));
    }
    check(device_->status_of(device_->driver().event_query(last), "a stream"));
    device_->give_back(last);
  }

  const std::unique_ptr<Device> device_;
  const int ordinal_;
};

}  // namespace

std::unique_ptr<OnDevice> OnDevice::make(int rank) {
  const Result<const Driver*> driver = Driver::load();
  if (!driver) return nullptr;
  const int ordinal = rank % (*driver)->devices;
  Result<std::unique_ptr<Device>> device = Device::open(**driver, ordinal);
  check(device.status());
  return std::make_unique<DriverDevice>(std::move(*device), ordinal);
}

}  // namespace khorus::conformance
