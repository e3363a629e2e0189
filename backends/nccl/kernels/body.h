// What one thread of a kernel does: its part of one chunk of one move.
//
// Every vector of 16 bytes of the destination is written by one store. Where the source lies
// otherwise against 16 bytes (tensors side by side in staging memory do), it is put together of the
// two aligned vectors that have its bytes; what else is in those two is the device's memory, too,
// and not looked at. What is left at the ends goes element by element, and so does everything where
// the destination is not aligned to its elements.
//
// Compiled by nvcc and, for the double of tests/gpu, by the host's compiler: threads do not talk to
// each other, so the double runs them one after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backends/nccl/kernels/elements.h"
#include "backends/nccl/kernels/move.h"

namespace khorus::backends::nccl {

struct __attribute__((may_alias, aligned(kVectorBytes))) Vector {
  uint64_t low;
  uint64_t high;
};

// The move that has this chunk. REQUIRES: count > 0.
KHORUS_BODY Move find_move(const Move* moves, uint32_t count, uint64_t chunk) {
  uint32_t first = 0;
  while (count > 1) {
    const uint32_t half = count / 2;
    const bool is_behind = moves[first + half].first_chunk <= chunk;
    first += is_behind ? half : 0;
    count = is_behind ? count - half : half;
  }
  return moves[first];
}

KHORUS_BODY uint32_t misalignment(const std::byte* at) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(at) % kVectorBytes);
}

// The vector that begins at byte `shift` of two, 0 < shift < 16.
KHORUS_BODY Vector join(const Vector& first, const Vector& second, uint32_t shift) {
  const bool skips = shift >= 8;
  const uint64_t a = skips ? first.high : first.low;
  const uint64_t b = skips ? second.low : first.high;
  const uint64_t c = skips ? second.high : second.low;
  const uint32_t bits = shift % 8 * 8;
  if (bits == 0) return {a, b};
  return {a >> bits | b << (64 - bits), b >> bits | c << (64 - bits)};
}

template <class Element>
KHORUS_BODY Vector applied(const Vector& vector, const Scaling& scaling) {
  typename Element::Stored values[kVectorBytes / sizeof(typename Element::Stored)];
  memcpy(values, &vector, sizeof values);
  for (auto& value : values) value = Element::apply(value, scaling);
  Vector result;
  memcpy(&result, values, sizeof result);
  return result;
}

// Elements begin..end, in bytes; wherever they lie.
template <class Element>
KHORUS_BODY void move_elements(const std::byte* from, std::byte* to, uint32_t begin, uint32_t end,
                               const Scaling& scaling, uint32_t thread) {
  constexpr uint32_t kWidth = sizeof(typename Element::Stored);
  for (uint32_t at = begin + thread * kWidth; at < end; at += kThreads * kWidth) {
    typename Element::Stored value;
    memcpy(&value, from + at, kWidth);
    value = Element::apply(value, scaling);
    memcpy(to + at, &value, kWidth);
  }
}

// `to` is aligned. A thread's loads come in batches before their stores, so that many are under
// way; where the arithmetic is long it is not repeated for each vector.
template <class Element>
KHORUS_BODY void move_vectors(const std::byte* from, std::byte* to, uint32_t count,
                              const Scaling& scaling, uint32_t thread) {
  constexpr uint32_t kBatch = Element::kIsShort ? kVectorsPerThread : 1;
  const uint32_t shift = misalignment(from);
  const auto* const source = reinterpret_cast<const Vector*>(from - shift);
  auto* const target = reinterpret_cast<Vector*>(to);
  KHORUS_NOT_UNROLLED
  for (uint32_t first = thread; first < count; first += kBatch * kThreads) {
    Vector vectors[kBatch];
    KHORUS_UNROLLED
    for (uint32_t i = 0; i < kBatch; ++i) {
      if (const uint32_t at = first + i * kThreads; at < count) vectors[i] = source[at];
    }
    KHORUS_UNROLLED
    for (uint32_t i = 0; i < kBatch; ++i) {
      const uint32_t at = first + i * kThreads;
      if (shift != 0 && at < count) vectors[i] = join(vectors[i], source[at + 1], shift);
    }
    KHORUS_UNROLLED
    for (uint32_t i = 0; i < kBatch; ++i) {
      const uint32_t at = first + i * kThreads;
      if (at < count) target[at] = applied<Element>(vectors[i], scaling);
    }
  }
}

// Thread `thread` of block `chunk`.
template <class Element>
KHORUS_BODY void run_thread(const Move* moves, uint32_t count, const Scaling& scaling,
                            uint64_t chunk, uint32_t thread) {
  constexpr uint32_t kWidth = sizeof(typename Element::Stored);
  const Move move = find_move(moves, count, chunk);
  const uint64_t begin = (chunk - move.first_chunk) * kChunkBytes;
  const std::byte* const from = move.from + begin;
  std::byte* const to = move.to + begin;
  const uint64_t left = move.bytes - begin;
  const uint32_t bytes = left < kChunkBytes ? static_cast<uint32_t>(left) : kChunkBytes;

  uint32_t head = (kVectorBytes - misalignment(to)) % kVectorBytes;
  if (head > bytes || head % kWidth != 0) head = bytes;
  const uint32_t vectors = (bytes - head) / kVectorBytes;
  const uint32_t tail = head + vectors * kVectorBytes;
  move_elements<Element>(from, to, 0, head, scaling, thread);
  move_vectors<Element>(from + head, to + head, vectors, scaling, thread);
  move_elements<Element>(from, to, tail, bytes, scaling, thread);
}

}  // namespace khorus::backends::nccl
