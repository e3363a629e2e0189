// Between at::Tensor and khorus::TensorView.
#include "torch_plugin/tensor_view.h"

#include <ATen/ATen.h>

#include <optional>

#include "torch_plugin/device.h"

namespace khorus::torch {
namespace {

struct TypePair {
  at::ScalarType theirs;
  DataType ours;
};

constexpr TypePair kTypes[] = {
    {at::kByte, DataType::kUint8},        {at::kChar, DataType::kInt8},
    {at::kShort, DataType::kInt16},       {at::kInt, DataType::kInt32},
    {at::kLong, DataType::kInt64},        {at::kHalf, DataType::kFloat16},
    {at::kBFloat16, DataType::kBfloat16}, {at::kFloat, DataType::kFloat32},
    {at::kDouble, DataType::kFloat64},    {at::kBool, DataType::kBool},
};

DataType dtype_of(const Tensor& tensor, const std::string& what) {
  for (const TypePair& pair : kTypes) {
    if (pair.theirs == tensor.scalar_type()) return pair.ours;
  }
  throw_invalid(what + " has dtype " + at::toString(tensor.scalar_type()) +
                ", which Khorus does not carry; convert it to one of uint8, int8, int16, int32, "
                "int64, float16, bfloat16, float32, float64, bool");
}

at::ScalarType scalar_type_of(DataType dtype) {
  for (const TypePair& pair : kTypes) {
    if (pair.ours == dtype) return pair.theirs;
  }
  throw Error(Status(StatusCode::kInternal, "an engine result has an unknown dtype"));
}

// What an operation keeps until it is over, on a GPU until that is done with it. The memory then
// goes back to the stream it was allocated for, with nothing of the engine's stream left to do on
// it: what Tensor::record_stream() is for is not needed.
struct Kept {
  // Not the tensor: set_data() and friends on the tensor then cannot free the memory.
  c10::Storage storage;
  std::optional<c10::Event> ready;
};

}  // namespace

void throw_invalid(const std::string& message) {
  throw Error(Status(StatusCode::kInvalidArgument, message));
}

Engine& engine_of(Engine* engine) { return engine != nullptr ? *engine : khorus::engine(); }

TensorView view_of(const Tensor& tensor, const std::string& what) {
  if (!tensor.defined()) throw_invalid(what + " is undefined; give a tensor that has memory");
  if (tensor.layout() != at::kStrided) {
    throw_invalid(what + " is sparse; only dense tensors are carried: call to_dense() first");
  }
  if (!tensor.is_cpu() && !is_gpu(tensor.device())) {
    throw_invalid(what + " is on " + tensor.device().str() +
                  "; tensors of the CPU and of CUDA are carried, copy it to one of them");
  }
  if (!tensor.is_contiguous()) throw_invalid(what + " is not contiguous; call contiguous() first");
  TensorView view;
  view.data = tensor.data_ptr();
  view.dtype = dtype_of(tensor, what);
  view.shape = tensor.sizes().vec();
  view.device = device_of(tensor.device());
  const auto kept = std::make_shared<Kept>(Kept{tensor.storage(), std::nullopt});
  if (is_gpu(tensor.device())) {
    kept->ready = record_now(tensor.device());
    view.stream = current_stream(tensor.device()).native_handle();
    view.ready_event = kept->ready->eventId();
  }
  view.owner = kept;
  return view;
}

Tensor tensor_of(const TensorView& view) {
  const at::Device device = device_of(view.device);
  const auto options = at::TensorOptions().dtype(scalar_type_of(view.dtype)).device(device);
  if (element_count(view.shape) == 0) return at::empty(view.shape, options);
  const auto owner = is_gpu(device) ? kept_for_stream(view.owner, device) : view.owner;
  return at::from_blob(
      view.data, view.shape, [owner](void*) {}, options, device);
}

}  // namespace khorus::torch
