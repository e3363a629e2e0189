// Framework: what a framework is to the engine, over CUDA's driver, the real one or the double: a
// stream of one GPU, and tensors that copies on this stream fill and read.
//
// On the double, a tensor that is read, freed or written to without being ordered after what uses
// it ends the process: a test that comes to its end has seen the order, not only the values.
//
// Used by the thread of its rank.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "backends/nccl/device.h"
#include "backends/nccl/driver.h"
#include "khorus/types.h"

namespace khorus::test {

class Framework {
 public:
  explicit Framework(int ordinal) : ordinal_(ordinal) {
    const Result<const Driver*> driver = Driver::load();
    check(driver.status());
    auto device = backends::nccl::Device::open(**driver, ordinal);
    check(device.status());
    device_ = std::move(*device);
  }
  CUstream stream() const { return device_->stream(); }
  Device place() const { return {DeviceKind::kCuda, ordinal_}; }

  // Filled by a copy on the stream, which may still be under way.
  template <class T>
  TensorView tensor(const std::vector<T>& values, DataType dtype) {
    const Scope scope(driver(), device_->context());
    auto block = std::make_shared<Block>();
    block->device = device_;
    block->source.resize(values.size() * sizeof(T));
    TensorView view;
    view.dtype = dtype;
    view.shape = {static_cast<int64_t>(values.size())};
    view.device = place();
    view.stream = stream();
    if (!values.empty()) {
      std::memcpy(block->source.data(), values.data(), block->source.size());
      check(device_->status_of(driver().mem_alloc(&block->address, block->source.size()),
                               "cuMemAlloc"));
      view.data = reinterpret_cast<void*>(block->address);
      check(device_->copy_from_host(view.data, block->source.data(), block->source.size()));
    }
    view.owner = block;
    return view;
  }
  TensorView tensor(const std::vector<float>& values) { return tensor(values, DataType::kFloat32); }

  // Copies on the stream, and waits for the stream.
  template <class T>
  std::vector<T> read(const TensorView& view) {
    const Scope scope(driver(), device_->context());
    std::vector<T> values(static_cast<size_t>(element_count(view.shape)));
    if (!values.empty()) {
      check(device_->copy_to_host(values.data(), view.data, values.size() * sizeof(T)));
    }
    check(device_->status_of(driver().stream_synchronize(stream()), "cuStreamSynchronize"));
    return values;
  }
  // An event for what is in the stream now; it lives as long as this.
  CUevent record() {
    const Scope scope(driver(), device_->context());
    const Result<CUevent> event = device_->record(stream());
    check(event.status());
    return *event;
  }
  // What comes later in the stream waits until this function has returned.
  void call(void (*function)(void*), void* data) {
    const Scope scope(driver(), device_->context());
    check(device_->call(function, data));
  }

 private:
  using Driver = backends::nccl::Driver;
  using Scope = backends::nccl::DeviceScope;
  struct Block {
    std::shared_ptr<backends::nccl::Device> device;
    CUdeviceptr address = 0;
    std::vector<std::byte> source;
    ~Block() {
      if (address == 0) return;
      const Scope scope(device->driver(), device->context());
      device->driver().mem_free(address);
    }
  };
  static void check(const Status& status) {
    if (status.ok()) return;
    std::fprintf(stderr, "the test's own work on the GPU: %s\n", status.to_string().c_str());
    std::abort();
  }
  const Driver& driver() const { return device_->driver(); }

  const int ordinal_;
  std::shared_ptr<backends::nccl::Device> device_;
};

}  // namespace khorus::test
