// See adasum.h.
#include "core/runtime/adasum.h"

#include <array>
#include <new>
#include <string>
#include <vector>

#include "core/base/assert.h"
#include "core/base/half.h"

namespace khorus::runtime {
namespace {

struct Part {
  size_t start = 0;
  size_t count = 0;
  size_t middle() const { return start + count / 2; }
  size_t end() const { return start + count; }
};

// a.b, a.a, b.b
using Dots = std::array<double, 3>;

template <class T>
class Reduction {
 public:
  Reduction(const AdasumGroup& group, DataType dtype, T* data, size_t count)
      : group_(group), dtype_(dtype), data_(data), whole_{0, count}, theirs_((count + 1) / 2) {}

  Status run() {
    std::vector<Part> parts{whole_};  // before each halving
    for (int distance = 1; distance < group_.size; distance *= 2) {
      Part kept;
      Status status = halve(parts.back(), distance, &kept);
      if (!status.ok()) return status;
      parts.push_back(kept);
    }
    for (int distance = group_.size / 2; distance >= 1; distance /= 2) {
      parts.pop_back();
      if (Status status = gather(parts.back(), distance); !status.ok()) return status;
    }
    return Status();
  }

 private:
  bool is_lower(int distance) const { return (group_.rank & distance) == 0; }

  // This rank keeps one half of the part and combines it with the same half of its partner.
  Status halve(const Part& part, int distance, Part* kept) {
    const int partner = group_.rank ^ distance;
    const Part lower{part.start, part.middle() - part.start};
    const Part upper{part.middle(), part.end() - part.middle()};
    *kept = is_lower(distance) ? lower : upper;
    const Part& given = is_lower(distance) ? upper : lower;
    Status status =
        group_.swap(partner, dtype_, data_ + given.start, given.count, theirs_.data(), kept->count);
    if (!status.ok()) return status;
    T* const mine = data_ + kept->start;
    const T* const a = is_lower(distance) ? mine : theirs_.data();
    const T* const b = is_lower(distance) ? theirs_.data() : mine;
    Dots dots{};
    for (size_t i = 0; i < kept->count; ++i) {
      const double x = a[i];
      const double y = b[i];
      dots[0] += x * y;
      dots[1] += x * x;
      dots[2] += y * y;
    }
    status = sum_over_block(2 * distance, &dots);
    if (!status.ok()) return status;
    const double weight_a = dots[1] > 0 ? 1 - dots[0] / (2 * dots[1]) : 1;
    const double weight_b = dots[2] > 0 ? 1 - dots[0] / (2 * dots[2]) : 1;
    for (size_t i = 0; i < kept->count; ++i) {
      mine[i] = static_cast<T>(weight_a * static_cast<double>(a[i]) +
                               weight_b * static_cast<double>(b[i]));
    }
    return Status();
  }

  // The vectors are spread over `block` neighbouring ranks: so are their dot products.
  Status sum_over_block(int block, Dots* dots) {
    for (int step = 1; step < block; step *= 2) {
      Dots theirs{};
      Status status = group_.swap(group_.rank ^ step, DataType::kFloat64, dots->data(),
                                  dots->size(), theirs.data(), theirs.size());
      if (!status.ok()) return status;
      for (size_t i = 0; i < dots->size(); ++i) (*dots)[i] += theirs[i];
    }
    return Status();
  }

  Status gather(const Part& part, int distance) {
    const Part lower{part.start, part.middle() - part.start};
    const Part upper{part.middle(), part.end() - part.middle()};
    const Part& mine = is_lower(distance) ? lower : upper;
    const Part& theirs = is_lower(distance) ? upper : lower;
    return group_.swap(group_.rank ^ distance, dtype_, data_ + mine.start, mine.count,
                       data_ + theirs.start, theirs.count);
  }

  const AdasumGroup& group_;
  const DataType dtype_;
  T* const data_;
  const Part whole_;
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
