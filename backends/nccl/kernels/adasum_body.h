// What one block of threads of a kernel of Adasum does; compiled as body.h is.
//
// Threads go through the elements side by side, so that neighbours' loads are one. Where they have
// to wait for each other, the body is cut: for_each_thread() is one piece of it.
#pragma once

#include <cstdint>

#include "backends/nccl/kernels/adasum_work.h"
#include "backends/nccl/kernels/elements.h"
#include "backends/nccl/kernels/move.h"

#ifdef __CUDACC__
#define KHORUS_SHARED __shared__
#else
#define KHORUS_SHARED
#endif

namespace khorus::backends::nccl {

struct BlockPlace {
  uint32_t block;
  uint32_t blocks;
};

// When it returns all threads of the block have done this. On the host one does it for all.
template <class Piece>
KHORUS_BODY void for_each_thread(const Piece& piece) {
#ifdef __CUDACC__
  piece(threadIdx.x);
  __syncthreads();
#else
  for (uint32_t thread = 0; thread < kThreads; ++thread) piece(thread);
#endif
}

// Calls use(i, load(i)) for the elements of a thread. Some loads come before their uses, so that
// enough of them are under way to keep the memory busy.
template <class Load, class Use>
KHORUS_BODY void for_its_elements(const BlockPlace& place, uint32_t thread, uint64_t count,
                                  const Load& load, const Use& use) {
  constexpr uint32_t kBatch = 4;
  const uint64_t stride = uint64_t{place.blocks} * kThreads;
  uint64_t first = uint64_t{place.block} * kThreads + thread;
  KHORUS_NOT_UNROLLED
  for (; first < count; first += kBatch * stride) {
    decltype(load(first)) values[kBatch] = {};
    KHORUS_UNROLLED
    for (uint32_t k = 0; k < kBatch; ++k) {
      if (const uint64_t i = first + k * stride; i < count) values[k] = load(i);
    }
    KHORUS_UNROLLED
    for (uint32_t k = 0; k < kBatch; ++k) {
      if (const uint64_t i = first + k * stride; i < count) use(i, values[k]);
    }
  }
}

template <class T>
struct Pair {
  T a;
  T b;
};

// Adds up what the threads have, in a tree; `sums` has one for each, the first gets it.
KHORUS_BODY void add_up(base::AdasumDots* sums) {
  for (uint32_t half = kThreads / 2; half > 0; half /= 2) {
    for_each_thread([&](uint32_t thread) {
      if (thread < half) sums[thread].add(sums[thread + half]);
    });
  }
}

// One sum of what every thread of the block makes of its elements.
template <class Load, class Use>
KHORUS_BODY void sum_up(const BlockPlace& place, uint64_t count, base::AdasumDots* to,
                        const Load& load, const Use& use) {
  KHORUS_SHARED base::AdasumDots sums[kThreads];
  for_each_thread([&](uint32_t thread) {
    base::AdasumDots mine{};
    for_its_elements(place, thread, count, load,
                     [&](uint64_t, const auto& value) { use(&mine, value); });
    sums[thread] = mine;
  });
  add_up(sums);
  for_each_thread([&](uint32_t thread) {
    if (thread == 0) *to = sums[0];
  });
}

template <class T>
KHORUS_BODY void run_block(const DotsOf<T>& work, const BlockPlace& place) {
  sum_up(
      place, work.count, work.sums + place.block,
      [&](uint64_t i) {
        return Pair<T>{work.a[i], work.b[i]};
      },
      [](base::AdasumDots* sum, const Pair<T>& pair) { sum->add(pair.a, pair.b); });
}

KHORUS_BODY void run_block(const TotalOf& work, const BlockPlace& place) {
  sum_up(
      place, work.count, work.total, [&](uint64_t i) { return work.sums[i]; },
      [](base::AdasumDots* sum, const base::AdasumDots& part) { sum->add(part); });
}

template <class T>
KHORUS_BODY void run_block(const Combination<T>& work, const BlockPlace& place) {
  const base::AdasumWeights weights = base::adasum_weights(*work.dots);
  for_each_thread([&](uint32_t thread) {
    for_its_elements(
        place, thread, work.count,
        [&](uint64_t i) {
          return Pair<T>{work.a[i], work.b[i]};
        },
        [&](uint64_t i, const Pair<T>& pair) {
          work.to[i] = base::adasum_element(weights, pair.a, pair.b);
        });
  });
}

template <class Element>
KHORUS_BODY void run_block(const Widening<Element>& work, const BlockPlace& place) {
  for_each_thread([&](uint32_t thread) {
    for_its_elements(
        place, thread, work.count, [&](uint64_t i) { return work.from[i]; },
        [&](uint64_t i, uint16_t value) { work.to[i] = Element::widened(value); });
  });
}

template <class Element>
KHORUS_BODY void run_block(const Narrowing<Element>& work, const BlockPlace& place) {
  for_each_thread([&](uint32_t thread) {
    for_its_elements(
        place, thread, work.count, [&](uint64_t i) { return work.from[i]; },
        [&](uint64_t i, float value) { work.to[i] = Element::narrowed(value); });
  });
}

}  // namespace khorus::backends::nccl
