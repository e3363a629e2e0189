// What the tests of this folder share: every rank is a process under a launcher and runs all of
// them on the default engine. A test is collective; what it checks it computes from rank and size.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <khorus/khorus.h>

#include <cstring>
#include <string>
#include <vector>

namespace khorus::test {

// A view of all of `values`, as rows of `width`.
template <class T>
TensorView rows_of(std::vector<T>& values, int64_t width) {
  TensorView view = internal::flat_view(values.data(), values.size());
  view.shape = {view.shape[0] / width, width};
  return view;
}
template <class T>
TensorView view_of(std::vector<T>& values) {
  return internal::flat_view(values.data(), values.size());
}

inline AllreduceOptions with(ReduceOp op, double prescale = 1, double postscale = 1,
                             ProcessSetId process_set = kGlobalProcessSet) {
  AllreduceOptions options;
  options.op = op;
  options.prescale = prescale;
  options.postscale = postscale;
  options.process_set = process_set;
  return options;
}

template <class T>
std::vector<T> result_of(const Work& work) {
  const TensorView result = work.result();
  std::vector<T> values(static_cast<size_t>(element_count(result.shape)));
  if (!values.empty()) std::memcpy(values.data(), result.data, values.size() * sizeof(T));
  return values;
}

// 1, or `many` when KHORUS_TEST_SOAK=1.
inline int soak_factor(int many) { return std::getenv("KHORUS_TEST_SOAK") != nullptr ? many : 1; }

}  // namespace khorus::test
