// Sparse tensors on the tests' device: torch's own kernels where these only arrange what lies in
// indices and values, which are dense tensors of the device. Where a kernel of torch's reads memory
// itself, operations of dense tensors do its work here, so the double sees what they touch.
#include <ATen/ATen.h>
#include <ATen/ops/_coalesced_native.h>
#include <ATen/ops/_indices_native.h>
#include <ATen/ops/_nnz_native.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors_native.h>
#include <ATen/ops/_to_dense_native.h>
#include <ATen/ops/_to_sparse_native.h>
#include <ATen/ops/_values_native.h>
#include <ATen/ops/add_native.h>
#include <ATen/ops/copy_native.h>
#include <ATen/ops/copy_sparse_to_sparse_native.h>
#include <ATen/ops/dense_dim_native.h>
#include <ATen/ops/empty_native.h>
#include <ATen/ops/indices_native.h>
#include <ATen/ops/is_coalesced_native.h>
#include <ATen/ops/sparse_dim_native.h>
#include <ATen/ops/sparse_resize_and_clear_native.h>
#include <ATen/ops/values_native.h>
#include <ATen/ops/zero_native.h>
#include <ATen/ops/zeros_native.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <tuple>
#include <type_traits>
#include <vector>

namespace khorus::gpu_double {
namespace {

// A sparse tensor is of the device that is current when it is made.
template <auto kMake, class Made>
struct OnItsDevice;
template <auto kMake, class... Arguments>
struct OnItsDevice<kMake, at::Tensor(Arguments...)> {
  static at::Tensor make(Arguments... arguments) {
    c10::OptionalDeviceGuard guard;
    const auto note = [&guard](const auto& argument) {
      using Type = std::decay_t<decltype(argument)>;
      if constexpr (std::is_same_v<Type, at::Tensor>) guard.reset_device(argument.device());
      if constexpr (std::is_same_v<Type, std::optional<at::Device>>) {
        if (argument && argument->has_index()) guard.reset_device(*argument);
      }
    };
    (note(arguments), ...);
    return kMake(arguments...);
  }
};
template <auto kMake>
constexpr auto kOnItsDevice = &OnItsDevice<kMake, std::remove_pointer_t<decltype(kMake)>>::make;

// Equal indices add up in the order in which they lie, as on the CPU.
at::Tensor coalesce(const at::Tensor& self) {
  at::Tensor indices = self._indices().clone(), values = self._values().clone();
  if (self._nnz() > 1) {
    at::Tensor place_of;
    std::tie(indices, place_of, std::ignore) = at::unique_dim(
        indices, /*dim=*/1, /*sorted=*/true, /*return_inverse=*/true, /*return_counts=*/false);
    std::vector<int64_t> size = values.sizes().vec();
    size[0] = indices.size(1);
    values = at::zeros(size, values.options()).index_add_(0, place_of, values);
  }
  return at::_sparse_coo_tensor_unsafe(indices, values, self.sizes())._coalesced_(true);
}

// Of two sparse tensors a sparse one; or the dense one, where it is `out`, too.
at::Tensor& add_out(const at::Tensor& self, const at::Tensor& other, const at::Scalar& alpha,
                    at::Tensor& out) {
  const at::Tensor indices = other._indices();
  const at::Tensor values = other._values().mul(alpha).to(out.scalar_type());
  if (self.is_sparse()) {
    return out.copy_(at::_sparse_coo_tensor_unsafe(
        at::cat({self._indices(), indices}, 1), at::cat({self._values(), values}), self.sizes()));
  }
  TORCH_CHECK(out.is_same(self), "this device adds sparse tensors to dense ones in place only");
  c10::List<std::optional<at::Tensor>> places;
  for (const at::Tensor& dimension : indices.unbind()) places.push_back(dimension);
  return out.index_put_(places, values, /*accumulate=*/true);
}

}  // namespace
}  // namespace khorus::gpu_double

TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, m) {
  namespace native = at::native;
  using namespace khorus::gpu_double;
  m.impl("empty.memory_format", kOnItsDevice<&native::empty_sparse_symint>);
  m.impl("_sparse_coo_tensor_with_dims_and_tensors",
         kOnItsDevice<&native::new_with_dims_and_tensor_sparse_symint>);
  m.impl("sparse_dim", &native::sparse_dim_sparse);
  m.impl("dense_dim", &native::dense_dim_sparse);
  m.impl("_nnz", &native::_nnz_sparse);
  m.impl("is_coalesced", &native::is_coalesced_sparse);
  m.impl("_indices", &native::_indices_sparse);
  m.impl("_values", &native::_values_sparse);
  m.impl("indices", &native::indices_sparse);
  m.impl("values", &native::values_sparse);
  m.impl("_coalesced_", &native::_coalesced_sparse_);
  m.impl("copy_", &native::copy_sparse_wrapper_);
  m.impl("copy_sparse_to_sparse_", &native::copy_sparse_);
  m.impl("zero_", &native::zero_sparse_);
  m.impl("zeros.out", &native::zeros_sparse_out);
  m.impl("sparse_resize_and_clear_", &native::sparse_resize_and_clear_);
  m.impl("_to_dense", &native::sparse_to_dense);
  m.impl("add.Tensor", &native::add_sparse);
  m.impl("add_.Tensor", &native::add_sparse_);
  m.impl("add.out", &add_out);
  m.impl("_coalesce", &coalesce);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  using ToSparse = at::Tensor (*)(const at::Tensor&, int64_t);
  m.impl("_to_sparse.sparse_dim", static_cast<ToSparse>(&at::native::dense_to_sparse));
}
