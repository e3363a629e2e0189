// Adasum (core/runtime/adasum.h) between GPUs: recursive halving by sends and receives of NCCL's,
// and the arithmetic by kernels (kernels/adasum_work.h), all in the device's stream.
//
// As on the CPU every part is computed by one rank, dot products are float64, and 16-bit floats are
// worked on in float32 and rounded once. The order in which dot products are added up differs, and
// so may the last bits of the result. Where a rank has no kernels a function on the host that the
// stream calls does its arithmetic, which is slow; the messages are the same.
//
// Thread rule: the thread that runs the operations. REQUIRES that the device's context is current.
#pragma once

#include <cstddef>

#include "backends/nccl/clique.h"
#include "backends/nccl/device.h"
#include "backends/nccl/kernels/module.h"
#include "core/base/halving.h"
#include "khorus/backend.h"
#include "khorus/status.h"
#include "khorus/types.h"

namespace khorus::backends::nccl {

class Adasum {
 public:
  // `kernels`: null where there are none.
  Adasum(Device& device, Clique& clique, const Module* kernels, int rank, int size)
      : device_(device), clique_(clique), kernels_(kernels), rank_(rank), size_(size) {}

  // An allreduce of floats. REQUIRES: a power of two of ranks; nothing is to be scaled. Returns
  // when it is in the stream.
  Status run(const khorus_op& op);

 private:
  // In the device's scratch memory: the sums of each block of a launch, those of this rank, of
  // every rank, and of all ranks that a vector is spread over.
  struct Sums {
    base::AdasumDots* blocks;
    base::AdasumDots* mine;
    base::AdasumDots* gathered;
    base::AdasumDots* total;
  };
  Result<Sums> sums();

  // In place; `theirs` has room for half of it.
  template <class T>
  Status reduce(T* data, T* theirs, size_t count);
  template <class T>
  Status reduce_in_output(const khorus_op& op);
  template <class Element>
  Status reduce_short(const khorus_op& op);
  template <class T>
  Status combine(T* data, T* theirs, const base::Halving& step);
  // Sends and receives at once; either may be empty.
  template <class T>
  Status swap(int partner, const T* send, size_t send_count, T* receive, size_t receive_count);

  template <class Work>
  Status launch(const Work& work);
  // The same on the host.
  template <class T>
  Status run_here(const DotsOf<T>& work);
  Status run_here(const TotalOf& work);
  template <class T>
  Status run_here(const Combination<T>& work);
  template <class Element>
  Status run_here(const Widening<Element>& work);
  template <class Element>
  Status run_here(const Narrowing<Element>& work);

  Device& device_;
  Clique& clique_;
  const Module* const kernels_;
  const int rank_;
  const int size_;
};

}  // namespace khorus::backends::nccl
