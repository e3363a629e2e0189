// How a kernel treats one element of each type: Stored is what lies in memory, apply() scales it by
// the arithmetic of core/base/reduce.h, kIsShort says whether that takes a few instructions only.
//
// Compiled by nvcc for the device, where the 16-bit floats are converted by its instructions, and
// by the host's compiler for the double of tests/gpu, where base/half.h converts them. The bits are
// the same but for the payload of a NaN.
#pragma once

#include <cstdint>

#include "backends/nccl/kernels/move.h"
#include "core/base/scale_element.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define KHORUS_BODY __device__ __forceinline__
#define KHORUS_UNROLLED _Pragma("unroll")
#define KHORUS_NOT_UNROLLED _Pragma("unroll 1")
#else
#include "core/base/half.h"
#define KHORUS_BODY inline
#define KHORUS_UNROLLED
#define KHORUS_NOT_UNROLLED
#endif

namespace khorus::backends::nccl {

struct Unscaled {
  using Stored = uint8_t;
  static constexpr bool kIsShort = true;
  KHORUS_BODY static Stored apply(Stored value, const Scaling&) { return value; }
};

template <class T>
struct Integer {
  using Stored = T;
  static constexpr bool kIsShort = false;
  KHORUS_BODY static T apply(T value, const Scaling& scaling) {
    if (scaling.factor != 1.0) value = base::scaled_integer(value, scaling.factor);
    return scaling.divisor == 1 ? value : base::divided_integer(value, scaling.divisor);
  }
};

struct Bool {
  using Stored = uint8_t;
  static constexpr bool kIsShort = false;
  KHORUS_BODY static Stored apply(Stored value, const Scaling& scaling) {
    return base::scaled_bool(value, scaling.factor);
  }
};

template <class T>
struct Float {
  using Stored = T;
  static constexpr bool kIsShort = true;
  KHORUS_BODY static T apply(T value, const Scaling& scaling) {
    return value * static_cast<T>(scaling.factor);
  }
};

// How 16-bit floats become float32, and the other way round.
struct Float16Format {
  KHORUS_BODY static float widened(uint16_t value) {
#ifdef __CUDACC__
    return __half2float(__ushort_as_half(value));
#else
    return base::float16_to_float(value);
#endif
  }
  KHORUS_BODY static uint16_t narrowed(float value) {
#ifdef __CUDACC__
    return __half_as_ushort(__float2half_rn(value));
#else
    return base::float_to_float16(value);
#endif
  }
};

struct Bfloat16Format {
  KHORUS_BODY static float widened(uint16_t value) {
#ifdef __CUDACC__
    return __bfloat162float(__ushort_as_bfloat16(value));
#else
    return base::bfloat16_to_float(value);
#endif
  }
  KHORUS_BODY static uint16_t narrowed(float value) {
#ifdef __CUDACC__
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
#else
    return base::float_to_bfloat16(value);
#endif
  }
};

template <class Format>
struct ShortFloat : Format {
  using Stored = uint16_t;
  static constexpr bool kIsShort = true;
  KHORUS_BODY static Stored apply(Stored value, const Scaling& scaling) {
    return Format::narrowed(Format::widened(value) * static_cast<float>(scaling.factor));
  }
};
using Float16 = ShortFloat<Float16Format>;
using Bfloat16 = ShortFloat<Bfloat16Format>;

}  // namespace khorus::backends::nccl
