// exp and tanh of floats, for kernel files (see isa.h): one body for scalars, which the compiler
// vectorises in simd loops, and for vectors of the GCC extension (float, vector_size).

#pragma once

#include <stdint.h>

namespace megafm::cpu::MEGAFM_ISA {

// Integers of the width of V, as many as V holds.
template <typename V>
struct IntegersLike {
  using type = decltype(V{} < V{});  // what comparing two vectors gives
};

template <>
struct IntegersLike<float> {
  using type = int32_t;
};

// x = n ln 2 + r with |r| <= ln(2) / 2: gives e^r by the polynomial of Cephes' expf (S. Moshier),
// and n. Of x between `least` and `most`, where it is cut off; a NaN passes.
template <typename V, typename I>
static inline V reduced_exp(V x, float least, float most, I& n) {
  x = x < least ? V{} + least : x;
  x = x > most ? V{} + most : x;
  constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: the sum has no fraction bits
  const V shifted = x * 1.44269504088896341f + round_to_integer;
  const V whole = shifted - round_to_integer;
  n = __builtin_bit_cast(I, shifted) - __builtin_bit_cast(int32_t, round_to_integer);
  const V r = x - whole * 0.693359375f - whole * -2.12194440e-4f;  // ln 2 in two, the first exact
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * (r * r) + r + 1.0f;
}

// e^x within 1.01 ulp (every seventh float tried, with and without FMA), denormal results included;
// 0 for -inf, inf for +inf and beyond 88.73, NaN for NaN.
template <typename V>
static inline V exp(V x) {
  using I = typename IntegersLike<V>::type;
  I n;
  const V y = reduced_exp(x, -104.0f, 89.0f, n);
  // 2^n in two factors: n reaches from -150 to 128, beyond what one float's exponent holds.
  const I half = n >> 1;
  return y * __builtin_bit_cast(V, (half + 127) << 23) *
         __builtin_bit_cast(V, (n - half + 127) << 23);
}

// As exp, in fewer instructions: 0 where the result is below 2^-126.5, inf where it is beyond
// 2^127.5. For softmax and sigmoid, in which such values are lost in a sum.
template <typename V>
static inline V exp_of_normal(V x) {
  using I = typename IntegersLike<V>::type;
  I n;
  const V y = reduced_exp(x, -88.0f, 89.0f, n);  // n from -127, a factor of 0, to 128, inf
  return y * __builtin_bit_cast(V, (n + 127) << 23);
}

// tanh of a vector, relative error included near 0: there an odd polynomial (Cephes' tanhf), else
// 1 - 2 / (e^2|x| + 1) with the sign of x. NaN for NaN.
template <typename V>
static inline V tanh(V x) {
  const V size = x < 0 ? -x : x;
  const V far = 1.0f - 2.0f / (exp_of_normal(size + size) + 1.0f);
  const V square = x * x;
  V p = square * -5.70498872745e-3f + 2.06390887954e-2f;
  p = p * square + -5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square + -3.33332819422e-1f;
  const V near = p * square * x + x;
  return size < 0.625f ? near : (x < 0 ? -far : far);
}

}  // namespace megafm::cpu::MEGAFM_ISA
