// See adasum.h.
#include "core/runtime/adasum.h"

#include <new>
#include <ranges>
#include <string>
#include <vector>

#include "core/base/adasum_element.h"
#include "core/base/assert.h"
#include "core/base/half.h"
#include "core/base/halving.h"

namespace khorus::runtime {
namespace {

using base::AdasumDots;
using base::Halving;

template <class T>
class Reduction {
 public:
  Reduction(const AdasumGroup& group, DataType dtype, T* data, size_t count)
      : group_(group), dtype_(dtype), data_(data), count_(count), theirs_((count + 1) / 2) {}

  Status run() {
    const std::vector<Halving> steps = base::halvings(group_.rank, group_.size, count_);
    for (const Halving& step : steps) {
      if (Status status = halve(step); !status.ok()) return status;
    }
    for (const Halving& step : std::views::reverse(steps)) {
      Status status = group_.swap(step.partner, dtype_, data_ + step.kept.start, step.kept.count,
                                  data_ + step.given.start, step.given.count);
      if (!status.ok()) return status;
    }
    return Status();
  }

 private:
  // Combines this rank's half with the same half of its partner.
  Status halve(const Halving& step) {
    const base::Part& kept = step.kept;
    Status status = group_.swap(step.partner, dtype_, data_ + step.given.start, step.given.count,
                                theirs_.data(), kept.count);
    if (!status.ok()) return status;
    T* const mine = data_ + kept.start;
    const T* const a = step.is_lower ? mine : theirs_.data();
    const T* const b = step.is_lower ? theirs_.data() : mine;
    AdasumDots dots{};
    for (size_t i = 0; i < kept.count; ++i) dots.add(a[i], b[i]);
    status = sum_over_block(step.block, &dots);
    if (!status.ok()) return status;
    const base::AdasumWeights weights = base::adasum_weights(dots);
    for (size_t i = 0; i < kept.count; ++i) mine[i] = base::adasum_element(weights, a[i], b[i]);
    return Status();
  }

  // The vectors are spread over `block` neighbouring ranks: so are their dot products.
  Status sum_over_block(int block, AdasumDots* dots) {
    constexpr size_t kNumbers = sizeof(AdasumDots) / sizeof(double);
    for (int step = 1; step < block; step *= 2) {
      AdasumDots theirs{};
      Status status =
          group_.swap(group_.rank ^ step, DataType::kFloat64, dots, kNumbers, &theirs, kNumbers);
      if (!status.ok()) return status;
      dots->add(theirs);
    }
    return Status();
  }

  const AdasumGroup& group_;
  const DataType dtype_;
  T* const data_;
  const size_t count_;
  std::vector<T> theirs_;
};

template <class To, class From>
Status by_way_of_float(const AdasumGroup& group, void* data, size_t count, To to, From from) {
  auto* const narrow = static_cast<uint16_t*>(data);
  std::vector<float> wide(count);
  for (size_t i = 0; i < count; ++i) wide[i] = to(narrow[i]);
  Status status = Reduction<float>(group, DataType::kFloat32, wide.data(), count).run();
  for (size_t i = 0; status.ok() && i < count; ++i) narrow[i] = from(wide[i]);
  return status;
}

}  // namespace

Status adasum(const AdasumGroup& group, DataType dtype, void* data, size_t count) {
  KHORUS_ASSERT(group.size > 0 && (group.size & (group.size - 1)) == 0,
                "adasum of a number of ranks that is not a power of two");
  try {
    switch (dtype) {
      case DataType::kFloat32:
        return Reduction<float>(group, dtype, static_cast<float*>(data), count).run();
      case DataType::kFloat64:
        return Reduction<double>(group, dtype, static_cast<double*>(data), count).run();
      case DataType::kFloat16:
        return by_way_of_float(group, data, count, base::float16_to_float, base::float_to_float16);
      case DataType::kBfloat16:
        return by_way_of_float(group, data, count, base::bfloat16_to_float,
                               base::float_to_bfloat16);
      default:
        KHORUS_ASSERT(false, "adasum of integers");
        return Status();
    }
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kUnavailable, "no memory for an adasum of " + std::to_string(count) +
                                                " elements; reduce smaller tensors");
  }
}

}  // namespace khorus::runtime
