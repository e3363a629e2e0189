// See tensors.h.
#include "python/tensors.h"

namespace khorus::python {
namespace {

// DLPack's structures, version 0: github.com/dmlc/dlpack. They cannot change any more.
struct DlpackTensor {
  void* data;
  struct {
    int32_t type, index;
  } device;
  int32_t dimensions;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
struct DlpackManagedTensor {
  DlpackTensor tensor;
  void* context;
  void (*deleter)(DlpackManagedTensor*);
};

struct Lent {
  DlpackManagedTensor managed{};
  int64_t extent = 0;
  PyObject* owner = nullptr;
};

// On any thread; the last tensor may go when the interpreter has.
void give_back(DlpackManagedTensor* managed) {
  auto* const lent = static_cast<Lent*>(managed->context);
  if (Py_IsInitialized() != 0) {
    const PyGILState_STATE state = PyGILState_Ensure();
    Py_DECREF(lent->owner);
    PyGILState_Release(state);
  }
  delete lent;
}

constexpr const char* kUnused = "dltensor";  // renamed by who takes it

void drop_unused(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, kUnused) == 0) return;
  give_back(static_cast<DlpackManagedTensor*>(PyCapsule_GetPointer(capsule, kUnused)));
}

py::buffer_info buffer_of(void* data, size_t bytes, bool on_device) {
  if (on_device) throw py::buffer_error("the memory is on a GPU, where it has no buffer");
  return py::buffer_info(data, 1, py::format_descriptor<uint8_t>::format(),
                         static_cast<py::ssize_t>(bytes));
}

}  // namespace

TensorView view_of(const Tensor& tensor) {
  TensorView view;
  std::visit(
      [&view](const auto& given) {
        view.data = reinterpret_cast<void*>(std::get<0>(given));
        view.dtype = static_cast<DataType>(std::get<1>(given));
        view.shape = std::get<2>(given);
      },
      tensor);
  if (const auto* const given = std::get_if<DeviceTensor>(&tensor)) {
    view.device = {DeviceKind::kCuda, std::get<3>(*given)};
    view.stream = reinterpret_cast<void*>(std::get<4>(*given));
    view.ready_event = reinterpret_cast<void*>(std::get<5>(*given));
  }
  return view;
}

std::vector<NamedTensor> members_of(const std::vector<std::string>& names,
                                    const std::vector<Tensor>& inputs,
                                    const std::vector<Tensor>& outputs) {
  std::vector<NamedTensor> members;
  for (size_t i = 0; i < inputs.size(); ++i) {
    NamedTensor& member = members.emplace_back();
    if (i < names.size()) member.name = names[i];
    member.input = view_of(inputs[i]);
    if (i < outputs.size()) member.output = view_of(outputs[i]);
  }
  return members;
}

py::buffer_info Result::buffer() const {
  static char nothing = 0;  // a buffer without elements still has an address
  return buffer_of(view_.data == nullptr ? &nothing : view_.data, view_.bytes(), device() >= 0);
}

py::buffer_info Memory::buffer() const { return buffer_of(memory_.get(), bytes_, on_device_); }

py::capsule dlpack_of(std::uintptr_t address, int64_t bytes, int device_type, int device,
                      py::object owner) {
  auto* const lent = new Lent;
  lent->extent = bytes;
  lent->owner = owner.release().ptr();
  lent->managed.context = lent;
  lent->managed.deleter = &give_back;
  DlpackTensor& tensor = lent->managed.tensor;
  tensor.data = reinterpret_cast<void*>(address);
  tensor.device = {device_type, device};
  tensor.dimensions = 1;
  tensor.dtype = {1, 8, 1};  // unsigned, 8 bits
  tensor.shape = &lent->extent;
  return py::capsule(&lent->managed, kUnused, &drop_unused);
}

}  // namespace khorus::python
