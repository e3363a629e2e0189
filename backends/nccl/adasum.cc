// See adasum.h.
#include "backends/nccl/adasum.h"

#include <algorithm>
#include <memory>
#include <ranges>
#include <vector>

#include "backends/nccl/host_step.h"
#include "backends/operation.h"

namespace khorus::backends::nccl {
namespace {

using base::AdasumDots;
using Columns = std::vector<std::byte*>;

constexpr size_t kNumbers = sizeof(AdasumDots) / sizeof(double);

template <class T>
constexpr ncclDataType_t kTypeOf = ncclFloat32;
template <>
constexpr ncclDataType_t kTypeOf<double> = ncclFloat64;

template <class T>
T* as(std::byte* column) {
  return reinterpret_cast<T*>(column);
}

}  // namespace

Status Adasum::run(const khorus_op& op) {
  if (op.count == 0) return {};
  switch (static_cast<DataType>(op.dtype)) {
    case DataType::kFloat16:
      return reduce_short<Float16>(op);
    case DataType::kBfloat16:
      return reduce_short<Bfloat16>(op);
    case DataType::kFloat32:
      return reduce_in_output<float>(op);
    default:  // float64; no other type is supported
      return reduce_in_output<double>(op);
  }
}

template <class T>
Status Adasum::reduce_in_output(const khorus_op& op) {
  const Result<std::byte*> staging = device_.staging((op.count + 1) / 2 * sizeof(T));
  if (!staging) return staging.status();
  Status status = device_.copy(op.output, op.input, op.count * sizeof(T));
  if (!status.ok()) return status;
  return reduce(static_cast<T*>(op.output), as<T>(*staging), op.count);
}

template <class Element>
Status Adasum::reduce_short(const khorus_op& op) {
  using Stored = typename Element::Stored;
  const size_t half = (op.count + 1) / 2;
  const Result<std::byte*> staging = device_.staging((op.count + half) * sizeof(float));
  if (!staging) return staging.status();
  float* const wide = as<float>(*staging);
  Status status = launch(Widening<Element>{static_cast<const Stored*>(op.input), wide, op.count});
  if (status.ok()) status = reduce(wide, wide + op.count, op.count);
  if (!status.ok()) return status;
  return launch(Narrowing<Element>{wide, static_cast<Stored*>(op.output), op.count});
}

template <class T>
Status Adasum::reduce(T* data, T* theirs, size_t count) {
  const std::vector<base::Halving> steps = base::halvings(rank_, size_, count);
  for (const base::Halving& step : steps) {
    if (Status status = combine(data, theirs, step); !status.ok()) return status;
  }
  for (const base::Halving& step : std::views::reverse(steps)) {
    Status status = swap(step.partner, data + step.kept.start, step.kept.count,
                         data + step.given.start, step.given.count);
    if (!status.ok()) return status;
  }
  return {};
}

template <class T>
Status Adasum::combine(T* data, T* theirs, const base::Halving& step) {
  const Result<Sums> sums = this->sums();
  if (!sums) return sums.status();
  const base::Part& kept = step.kept;
  Status status = swap(step.partner, data + step.given.start, step.given.count, theirs, kept.count);
  if (!status.ok()) return status;
  T* const mine = data + kept.start;
  const T* const a = step.is_lower ? mine : theirs;
  const T* const b = step.is_lower ? theirs : mine;

  status = launch(DotsOf<T>{a, b, kept.count, sums->blocks});
  if (status.ok()) {
    status = launch(TotalOf{sums->blocks, adasum_blocks(kept.count), sums->mine});
  }
  if (!status.ok()) return status;
  status = clique_.submit([&](const Library& nccl, ncclComm_t comm) {
    return nccl.all_gather(sums->mine, sums->gathered, kNumbers, ncclFloat64, comm,
                           device_.stream());
  });
  // Those of the ranks that the vectors are spread over.
  const int first = rank_ / step.block * step.block;
  if (status.ok()) {
    status =
        launch(TotalOf{sums->gathered + first, static_cast<uint64_t>(step.block), sums->total});
  }
  if (!status.ok()) return status;
  return launch(Combination<T>{a, b, mine, kept.count, sums->total});
}

template <class T>
Status Adasum::swap(int partner, const T* send, size_t send_count, T* receive,
                    size_t receive_count) {
  if (send_count == 0 && receive_count == 0) return {};
  return clique_.submit([&](const Library& nccl, ncclComm_t comm) {
    CallGroup group;
    if (send_count > 0) {
      group.add(
          [&] { return nccl.send(send, send_count, kTypeOf<T>, partner, comm, device_.stream()); });
    }
    if (receive_count > 0) {
      group.add([&] {
        return nccl.recv(receive, receive_count, kTypeOf<T>, partner, comm, device_.stream());
      });
    }
    return group.result();
  });
}

Result<Adasum::Sums> Adasum::sums() {
  const Result<std::byte*> scratch = device_.scratch();
  if (!scratch) return scratch.status();
  auto* const blocks = as<AdasumDots>(*scratch);
  AdasumDots* const mine = blocks + kMostAdasumBlocks;
  return Sums{blocks, mine, mine + 1, mine + 1 + size_};
}

// ---- one step ----

template <class Work>
Status Adasum::launch(const Work& work) {
  if (kernels_ == nullptr) return run_here(work);
  return device_.status_of(kernels_->launch(work, device_.stream()), "cuLaunchKernel");
}

// The first block has it all.
template <class T>
Status Adasum::run_here(const DotsOf<T>& work) {
  const auto sum = std::make_shared<AdasumDots>();
  Status status =
      run_on_host(device_, {read_column(work.a, sizeof(T)), read_column(work.b, sizeof(T))},
                  work.count, [sum](const Columns& columns, size_t count) {
                    for (size_t i = 0; i < count; ++i)
                      sum->add(as<T>(columns[0])[i], as<T>(columns[1])[i]);
                  });
  if (!status.ok()) return status;
  return run_on_host(device_, {written_column(work.sums, sizeof(AdasumDots))},
                     adasum_blocks(work.count), [sum](const Columns& columns, size_t count) {
                       auto* const sums = as<AdasumDots>(columns[0]);
                       std::fill_n(sums, count, AdasumDots{});
                       sums[0] = *sum;
                     });
}

Status Adasum::run_here(const TotalOf& work) {
  const auto total = std::make_shared<AdasumDots>();
  Status status = run_on_host(device_, {read_column(work.sums, sizeof(AdasumDots))}, work.count,
                              [total](const Columns& columns, size_t count) {
                                for (size_t i = 0; i < count; ++i)
                                  total->add(as<AdasumDots>(columns[0])[i]);
                              });
  if (!status.ok()) return status;
  return run_on_host(
      device_, {written_column(work.total, sizeof(AdasumDots))}, 1,
      [total](const Columns& columns, size_t) { *as<AdasumDots>(columns[0]) = *total; });
}

template <class T>
Status Adasum::run_here(const Combination<T>& work) {
  const auto weights = std::make_shared<base::AdasumWeights>();
  Status status = run_on_host(device_, {read_column(work.dots, sizeof(AdasumDots))}, 1,
                              [weights](const Columns& columns, size_t) {
                                *weights = base::adasum_weights(*as<AdasumDots>(columns[0]));
                              });
  if (!status.ok()) return status;
  return run_on_host(device_,
                     {read_column(work.a, sizeof(T)), read_column(work.b, sizeof(T)),
                      written_column(work.to, sizeof(T))},
                     work.count, [weights](const Columns& columns, size_t count) {
                       for (size_t i = 0; i < count; ++i) {
                         as<T>(columns[2])[i] = base::adasum_element(*weights, as<T>(columns[0])[i],
                                                                     as<T>(columns[1])[i]);
                       }
                     });
}

template <class Element>
Status Adasum::run_here(const Widening<Element>& work) {
  return run_on_host(
      device_, {read_column(work.from, sizeof *work.from), written_column(work.to, sizeof(float))},
      work.count, [](const Columns& columns, size_t count) {
        const auto* const from = as<typename Element::Stored>(columns[0]);
        std::transform(from, from + count, as<float>(columns[1]), Element::widened);
      });
}

template <class Element>
Status Adasum::run_here(const Narrowing<Element>& work) {
  return run_on_host(
      device_, {read_column(work.from, sizeof(float)), written_column(work.to, sizeof *work.to)},
      work.count, [](const Columns& columns, size_t count) {
        const auto* const from = as<float>(columns[0]);
        std::transform(from, from + count, as<typename Element::Stored>(columns[1]),
                       Element::narrowed);
      });
}

}  // namespace khorus::backends::nccl
