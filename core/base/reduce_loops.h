// The loops of the reductions, to be compiled for one instruction set: included once by each
// reduce_PATH.cc, after it has defined
//   KHORUS_TARGET  the attribute that every function here gets (empty: the compiler's own target)
//   KHORUS_PATH    the namespace of this copy
//   KHORUS_LANES   how many float16 the processor converts at once (8, 16); 0: it cannot
//   KHORUS_BF16    if it converts bfloat16, too
// Attributes and not compiler flags, because flags would also apply to the inline functions of the
// standard library, and the linker might take those copies for code that runs everywhere.
//
// The loops are plain: the compiler vectorises them. Only 16-bit floats take intrinsics, because no
// compiler finds the processor's conversions by itself. Each type has a format (how it is stored,
// in what it is combined); each operation a functor.

namespace khorus::base {
namespace KHORUS_PATH {

#define KHORUS_INLINE KHORUS_TARGET [[gnu::always_inline]] static inline

// How a type is stored in memory and in which type it is combined.
template <class T>
struct PlainFormat {
  using Stored = T;
  using Value = T;
  KHORUS_INLINE Value load(Stored stored) { return stored; }
  KHORUS_INLINE Stored store(Value value) { return value; }
};
struct Float16Format {
  using Stored = uint16_t;
  using Value = float;
  KHORUS_INLINE Value load(Stored stored) { return float16_to_float(stored); }
  KHORUS_INLINE Stored store(Value value) { return float_to_float16(value); }
};
struct Bfloat16Format {
  using Stored = uint16_t;
  using Value = float;
  KHORUS_INLINE Value load(Stored stored) { return bfloat16_to_float(stored); }
  KHORUS_INLINE Stored store(Value value) { return float_to_bfloat16(value); }
};
struct BoolFormat {
  using Stored = uint8_t;
  using Value = bool;
  KHORUS_INLINE Value load(Stored stored) { return stored != 0; }
  KHORUS_INLINE Stored store(Value value) { return value ? 1 : 0; }
};

// An unsigned type in which T's arithmetic wraps instead of being undefined; at least 32 bits, so
// that no operand is promoted to a signed int.
template <class T>
using Wrapping = std::conditional_t<(sizeof(T) < 4), uint32_t, std::make_unsigned_t<T>>;

// T is a number, bool, or a vector of float.
struct Sum {
  template <class T>
  KHORUS_INLINE T apply(T a, T b) {
    if constexpr (std::is_same_v<T, bool>) {
      return a | b;
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(static_cast<Wrapping<T>>(a) + static_cast<Wrapping<T>>(b));
    } else {
      return a + b;
    }
  }
};
struct Product {
  template <class T>
  KHORUS_INLINE T apply(T a, T b) {
    if constexpr (std::is_same_v<T, bool>) {
      return a & b;
    } else if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(static_cast<Wrapping<T>>(a) * static_cast<Wrapping<T>>(b));
    } else {
      return a * b;
    }
  }
};
struct Min {
  template <class T>
  KHORUS_INLINE T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      return a < b ? a : b;
    } else {
      return (a < b) | (a != a) ? a : b;  // a NaN on either side wins
    }
  }
};
struct Max {
  template <class T>
  KHORUS_INLINE T apply(T a, T b) {
    if constexpr (std::is_integral_v<T>) {
      return a > b ? a : b;
    } else {
      return (a > b) | (a != a) ? a : b;
    }
  }
};

#if KHORUS_LANES > 0
#if KHORUS_LANES == 16
using Lanes = __m512;
#else
using Lanes = __m256;
#endif

// Several values of a format at once: 16-bit floats, and float for what lies between.
template <class Format>
struct Vector;
template <>
struct Vector<PlainFormat<float>> {
  KHORUS_INLINE Lanes load(const float* from) {
    Lanes value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  }
  KHORUS_INLINE void store(float* to, Lanes value) { __builtin_memcpy(to, &value, sizeof(value)); }
};
template <>
struct Vector<Float16Format> {
#if KHORUS_LANES == 16
  KHORUS_INLINE Lanes load(const uint16_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  KHORUS_INLINE void store(uint16_t* to, Lanes value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  KHORUS_INLINE Lanes load(const uint16_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  KHORUS_INLINE void store(uint16_t* to, Lanes value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
#endif
};
#ifdef KHORUS_BF16
template <>
struct Vector<Bfloat16Format> {
  KHORUS_INLINE Lanes load(const uint16_t* from) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  // The processor's conversion takes subnormal numbers for zero and keeps the payload of a NaN,
  // unlike float_to_bfloat16(): vectors with one of them, rare in practice, go that way.
  KHORUS_INLINE void store(uint16_t* to, Lanes value) {
    constexpr int kQuietNan = 0x01, kSubnormal = 0x20, kSignallingNan = 0x80;
    if (_mm512_fpclass_ps_mask(value, kQuietNan | kSubnormal | kSignallingNan) == 0) [[likely]] {
      const __m256bh half = _mm512_cvtneps_pbh(value);
      __builtin_memcpy(to, &half, sizeof(half));
      return;
    }
    for (int i = 0; i < KHORUS_LANES; ++i) to[i] = float_to_bfloat16(value[i]);
  }
};
template <class Format>
constexpr bool kHasVector =
    std::is_same_v<Format, Float16Format> || std::is_same_v<Format, Bfloat16Format>;
#else
template <class Format>
constexpr bool kHasVector = std::is_same_v<Format, Float16Format>;
#endif
template <class... Formats>
constexpr bool kByLanes = (kHasVector<Formats> || ...);
#else
template <class... Formats>
constexpr bool kByLanes = false;
#endif

template <class Out, class A, class B, class Op>
KHORUS_TARGET void combine(void* out, const void* a, const void* b, size_t count) {
  auto* const to = static_cast<typename Out::Stored*>(out);
  const auto* const x = static_cast<const typename A::Stored*>(a);
  const auto* const y = static_cast<const typename B::Stored*>(b);
  size_t i = 0;
#if KHORUS_LANES > 0
  if constexpr (kByLanes<Out, A, B>) {
    for (; i + KHORUS_LANES <= count; i += KHORUS_LANES) {
      Vector<Out>::store(to + i, Op::apply(Vector<A>::load(x + i), Vector<B>::load(y + i)));
    }
  }
#endif
  // What is written is what is read, at the same place, or lies elsewhere.
#pragma GCC ivdep
  for (; i < count; ++i) to[i] = Out::store(Op::apply(A::load(x[i]), B::load(y[i])));
}

template <class Out, class In>
KHORUS_TARGET void convert(void* out, const void* in, size_t count) {
  auto* const to = static_cast<typename Out::Stored*>(out);
  const auto* const from = static_cast<const typename In::Stored*>(in);
  size_t i = 0;
#if KHORUS_LANES > 0
  if constexpr (kByLanes<Out, In>) {
    for (; i + KHORUS_LANES <= count; i += KHORUS_LANES) {
      Vector<Out>::store(to + i, Vector<In>::load(from + i));
    }
  }
#endif
#pragma GCC ivdep
  for (; i < count; ++i) to[i] = Out::store(In::load(from[i]));
}

template <class Format>
KHORUS_TARGET void scale(void* out, const void* in, size_t count, double factor) {
  auto* const to = static_cast<typename Format::Stored*>(out);
  const auto* const from = static_cast<const typename Format::Stored*>(in);
  const auto by = static_cast<typename Format::Value>(factor);
  size_t i = 0;
#if KHORUS_LANES > 0
  if constexpr (kByLanes<Format>) {
    for (; i + KHORUS_LANES <= count; i += KHORUS_LANES) {
      Vector<Format>::store(to + i, Vector<Format>::load(from + i) * by);
    }
  }
#endif
#pragma GCC ivdep
  for (; i < count; ++i) to[i] = Format::store(Format::load(from[i]) * by);
}

template <class F, class Op>
constexpr CombineLoops loops_of() {
  if constexpr (sizeof(typename F::Value) > sizeof(typename F::Stored)) {
    using Values = PlainFormat<typename F::Value>;
    return {combine<F, F, F, Op>, combine<Values, F, F, Op>, combine<Values, Values, F, Op>,
            combine<F, Values, F, Op>};
  } else {
    return {combine<F, F, F, Op>, combine<F, F, F, Op>, combine<F, F, F, Op>, combine<F, F, F, Op>};
  }
}
template <class F>
constexpr std::array<CombineLoops, 4> loops_of_type() {
  return {loops_of<F, Sum>(), loops_of<F, Min>(), loops_of<F, Max>(), loops_of<F, Product>()};
}

// In the order of DataType.
constexpr ReduceKernels kKernels{
    .combine = {loops_of_type<PlainFormat<uint8_t>>(), loops_of_type<PlainFormat<int8_t>>(),
                loops_of_type<PlainFormat<int16_t>>(), loops_of_type<PlainFormat<int32_t>>(),
                loops_of_type<PlainFormat<int64_t>>(), loops_of_type<Float16Format>(),
                loops_of_type<Bfloat16Format>(), loops_of_type<PlainFormat<float>>(),
                loops_of_type<PlainFormat<double>>(), loops_of_type<BoolFormat>()},
    .normalize = {nullptr, nullptr, nullptr, nullptr, nullptr,
                  convert<Float16Format, Float16Format>, convert<Bfloat16Format, Bfloat16Format>,
                  nullptr, nullptr, convert<BoolFormat, BoolFormat>},
    .widen = {nullptr, nullptr, nullptr, nullptr, nullptr,
              convert<PlainFormat<float>, Float16Format>,
              convert<PlainFormat<float>, Bfloat16Format>, nullptr, nullptr, nullptr},
    .narrow = {nullptr, nullptr, nullptr, nullptr, nullptr,
               convert<Float16Format, PlainFormat<float>>,
               convert<Bfloat16Format, PlainFormat<float>>, nullptr, nullptr, nullptr},
    .scale = {nullptr, nullptr, nullptr, nullptr, nullptr, scale<Float16Format>,
              scale<Bfloat16Format>, scale<PlainFormat<float>>, scale<PlainFormat<double>>,
              nullptr}};

#undef KHORUS_INLINE

}  // namespace KHORUS_PATH
}  // namespace khorus::base
