// What torch does on the tests' device: see torch_device.h.
#include <ATen/ATen.h>
#include <ATen/ops/_reshape_alias_cpu_dispatch.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/view_cpu_dispatch.h>
#include <torch/library.h>

#include <algorithm>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/double/machine.h"
#include "tests/gpu/torch_device_parts.h"

namespace khorus::gpu_double {
namespace {

// What of its memory a tensor reaches, for the double.
Access access_of(const at::Tensor& tensor, bool writes) {
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  const size_t bytes =
      tensor.numel() == 0 ? 0 : static_cast<size_t>(last + 1) * tensor.element_size();
  return {tensor.const_data_ptr(), bytes, writes};
}

// The same memory as a tensor of the CPU, for tasks of a stream.
at::Tensor on_cpu(const at::Tensor& tensor) {
  const auto options = at::TensorOptions().dtype(tensor.scalar_type()).device(at::kCPU);
  if (tensor.numel() == 0) return at::empty(tensor.sizes(), options);
  const Access access = access_of(tensor, false);
  return at::from_blob(view_of(access.address, access.bytes), tensor.sizes(), tensor.strides(),
                       options);
}

void start(int device, const std::string& what, const std::vector<Access>& accesses,
           const std::function<void()>& task) {
  const DeviceScope scope(device);
  enqueue(stream_of(current_handle(device)), what, accesses, [what, task] {
    try {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;
      task();
    } catch (const std::exception& error) {
      violation(what + " failed in its stream: " + error.what());
    }
  });
}

void run(int device, const std::string& what, const std::vector<Access>& accesses,
         const std::function<void()>& task) {
  std::promise<void> done;
  start(device, what, accesses, [&] {
    try {
      task();
      done.set_value();
    } catch (...) {
      done.set_exception(std::current_exception());
    }
  });
  done.get_future().get();
}

bool is_here(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kDevice;
}

bool writes(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// One call of an operator, moved to the CPU.
class Call {
 public:
  explicit Call(const c10::OperatorHandle& op) : op_(op) {}

  c10::IValue argument(const c10::IValue& given, const c10::Argument& declared) {
    const bool writes = gpu_double::writes(declared);
    if (given.isTensor()) return tensor(given.toTensor(), writes);
    if (given.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& part : given.toTensorVector()) list.push_back(tensor(part, writes));
      return list;
    }
    if (given.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& part : given.toOptionalTensorVector()) {
        list.push_back(part ? std::optional(tensor(*part, writes)) : std::nullopt);
      }
      return list;
    }
    if (declared.type()->str() == "Generator?") {
      return generator_for_operation(given.isNone() ? default_generator(device_)
                                                    : given.toGenerator());
    }
    if (given.isDevice()) {
      if (given.toDevice().has_index()) device_ = given.toDevice().index();
      return at::Device(at::kCPU);
    }
    return given;
  }
  void run(torch::jit::Stack& stack) const {
    gpu_double::run(device_, op_.schema().name(), accesses_, [&] { op_.callBoxed(stack); });
  }
  void start(torch::jit::Stack stack) const {
    const auto shared = std::make_shared<torch::jit::Stack>(std::move(stack));
    gpu_double::start(device_, op_.schema().name(), accesses_,
                      [op = op_, shared] { op.callBoxed(*shared); });
  }
  // A result that is a tensor of its own.
  at::Tensor moved(const at::Tensor& result) const {
    if (!result.defined()) return result;
    const at::Tensor made = at::empty_strided(
        result.sizes(), result.strides(), result.options().device(at::Device(kDevice, index())));
    gpu_double::start(device_, "the result of " + op_.schema().name(), {access_of(made, true)},
                      [target = on_cpu(made), result] { target.copy_(result); });
    return made;
  }
  int device() const { return device_; }

 private:
  at::DeviceIndex index() const { return static_cast<at::DeviceIndex>(device_); }
  at::Tensor tensor(const at::Tensor& given, bool writes) {
    if (!is_here(given)) return given;
    device_ = given.device().index();
    accesses_.push_back(access_of(given, writes));
    return on_cpu(given);
  }

  const c10::OperatorHandle& op_;
  int device_ = current_device();
  std::vector<Access> accesses_;
};

// What an operator returns that is one of its arguments.
const c10::IValue& written_argument(const c10::FunctionSchema& schema, const c10::AliasInfo& alias,
                                    const std::vector<c10::IValue>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* const of_argument = schema.arguments()[i].alias_info();
    if (of_argument != nullptr && of_argument->beforeSets() == alias.beforeSets()) {
      return arguments[i];
    }
  }
  violation(schema.name() + " returns a view, which this device does not have");
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const std::vector<c10::IValue> given = torch::jit::pop(*stack, schema.arguments().size());
  Call call(op);
  torch::jit::Stack moved;
  for (size_t i = 0; i < given.size(); ++i) {
    moved.push_back(call.argument(given[i], schema.arguments()[i]));
  }
  const bool only_writes_arguments =
      std::all_of(schema.returns().begin(), schema.returns().end(),
                  [](const c10::Argument& result) { return result.alias_info() != nullptr; });
  only_writes_arguments ? call.start(std::move(moved)) : call.run(moved);
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    const auto* const alias = schema.returns()[i].alias_info();
    if (alias != nullptr) {
      stack->push_back(written_argument(schema, *alias, given));
    } else if (moved[i].isTensor()) {
      stack->push_back(call.moved(moved[i].toTensor()));
    } else if (moved[i].isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& part : moved[i].toTensorVector()) list.push_back(call.moved(part));
      stack->push_back(list);
    } else {  // a value that the host now knows
      host_waits_for(current_handle(call.device()), call.device());
      stack->push_back(moved[i]);
    }
  }
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                         std::optional<at::Device> device, std::optional<bool>) {
  const at::Device place = device.value_or(at::Device(kDevice));
  const int before = exchange_device(place.has_index() ? place.index() : current_device());
  const at::Tensor made = at::detail::empty_strided_generic(
      size, stride, &device_allocator(), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      dtype.value_or(at::kFloat));
  exchange_device(before);
  return made;
}
at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                 std::optional<at::Layout> layout, std::optional<at::Device> device,
                 std::optional<bool> pinned, std::optional<at::MemoryFormat>) {
  std::vector<int64_t> stride(size.size(), 1);
  for (size_t d = size.size(); d-- > 1;) {
    stride[d - 1] = stride[d] * std::max<int64_t>(size[d], 1);
  }
  return empty_strided(size, stride, dtype, layout, device, pinned);
}

// What the host gives is read at once, as of memory that is not pinned.
at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  std::vector<Access> accesses;
  if (is_here(from)) accesses.push_back(access_of(from, false));
  if (is_here(to)) accesses.push_back(access_of(to, true));
  const at::Device device = is_here(to) ? to.device() : from.device();
  const at::Tensor source = is_here(from) ? on_cpu(from) : from.clone();
  const at::Tensor target = is_here(to) ? on_cpu(to) : to;
  start(device.index(), "copy_", accesses, [target, source] { target.copy_(source); });
  if (!is_here(to)) host_waits_for(current_handle(device.index()), device.index());
  return to;
}

at::Tensor as_strided(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride,
                      std::optional<int64_t> offset) {
  return at::cpu::as_strided(self, size, stride, offset);
}
at::Tensor view(const at::Tensor& self, at::IntArrayRef size) { return at::cpu::view(self, size); }
at::Tensor reshape_alias(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride) {
  return at::cpu::_reshape_alias(self, size, stride);
}
at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size,
                        at::IntArrayRef stride) {
  return at::cpu::set_(self, std::move(source), offset, size, stride);
}

// The result gets its size here, and no operation of the CPU can give memory of the device one.
at::Tensor& arange(const at::Scalar& start, const at::Scalar& end, const at::Scalar& step,
                   at::Tensor& out) {
  const at::Tensor made = at::arange(start, end, step, out.scalar_type()).to(out.device());
  return set_storage(out, made.storage(), 0, made.sizes(), made.strides());
}

}  // namespace
}  // namespace khorus::gpu_double

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&khorus::gpu_double::fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  using namespace khorus::gpu_double;
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("arange.start_out", &arange);
}
