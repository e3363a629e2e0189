// Tensors between Python and the engine.
//
// What is given is (address, dtype, extents), of a GPU (address, dtype, extents, device, stream,
// event, keeper): its number, a cudaStream_t, a cudaEvent_t, and whatever keeps that. Results whose
// size only the engine knows have the buffer protocol, or on a GPU an address (see dlpack_of).
//
// Thread rule: whoever has the GIL.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "khorus/engine.h"

namespace khorus::python {

namespace py = pybind11;

using HostTensor = std::tuple<std::uintptr_t, int, Shape>;
using DeviceTensor =
    std::tuple<std::uintptr_t, int, Shape, int, std::uintptr_t, std::uintptr_t, py::object>;
using Tensor = std::variant<HostTensor, DeviceTensor>;

TensorView view_of(const Tensor& tensor);
std::vector<NamedTensor> members_of(const std::vector<std::string>& names,
                                    const std::vector<Tensor>& inputs,
                                    const std::vector<Tensor>& outputs);

// Memory that the engine allocated for a result; of the CPU readable and writable as bytes.
class Result {
 public:
  explicit Result(TensorView view) : view_(std::move(view)) {}
  py::buffer_info buffer() const;
  const Shape& shape() const { return view_.shape; }
  int dtype() const { return static_cast<int>(view_.dtype); }
  std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(view_.data); }
  size_t bytes() const { return view_.bytes(); }
  // The number of the GPU; -1: the CPU.
  int device() const { return view_.device.kind == DeviceKind::kCpu ? -1 : view_.device.index; }

 private:
  TensorView view_;
};

// Memory from Engine::allocate, readable and writable as bytes; or on a GPU, where it is not.
class Memory {
 public:
  Memory(std::shared_ptr<void> memory, size_t bytes, bool on_device)
      : memory_(std::move(memory)), bytes_(bytes), on_device_(on_device) {}
  py::buffer_info buffer() const;
  std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(memory_.get()); }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<void> memory_;
  size_t bytes_;
  bool on_device_;
};

// `bytes` bytes there as a capsule of DLPack, one-dimensional, which holds `owner` until the tensor
// that is made of it goes. `device_type` is DLPack's number, 2 for CUDA.
py::capsule dlpack_of(std::uintptr_t address, int64_t bytes, int device_type, int device,
                      py::object owner);

}  // namespace khorus::python
