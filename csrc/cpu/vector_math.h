// exp and tanh of floats, for kernel files (see isa.h): one body for scalars, which the compiler
// vectorises in simd loops, and for vectors of the GCC extension (float, vector_size).

#pragma once

#include "cpu/vectors.h"

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

// 1.5 * 2^23 + 127: a sum of a small float and this one has no fraction bits, and ends in the bits
// of an integer, 127 more, which is how a float's exponent field holds it.
constexpr float to_exponent = 12583039.0f;

// x = n ln 2 + r with |r| <= ln(2) / 2: gives e^r, and n as n + to_exponent in `shifted`. The
// polynomial is the one of degree 6, 1 + r + ..., with the least relative error, 3.1e-9.
template <typename V>
static inline V reduced_exp(V x, V& shifted) {
  shifted = x * 1.44269504088896341f + to_exponent;
  const V n = shifted - to_exponent;
  const V r = x - n * 0.693359375f - n * -2.12194440e-4f;  // ln 2 in two, the first exact
  V p = r * 1.3814539416e-3f + 8.3687454462e-3f;
  p = p * r + 4.1668388993e-2f;
  p = p * r + 1.6666521132e-1f;
  p = p * r + 4.9999994040e-1f;
  p = p * r + 1.0f;
  return p * r + 1.0f;
}

// e^x within 0.9 ulp (1.2 without FMA; every float tried), denormal results included; 0 for -inf,
// inf for +inf and beyond 88.73, NaN for NaN.
template <typename V>
static inline V exp(V x) {
  using I = typename IntegersLike<V>::type;
  V shifted;
  const V y = reduced_exp(larger(V{} - 104.0f, x > 89.0f ? V{} + 89.0f : x), shifted);
  const I n = __builtin_bit_cast(I, shifted) - __builtin_bit_cast(int32_t, to_exponent);
  // 2^n in two factors: n reaches from -150 to 128, beyond what one float's exponent holds.
  const I half = n >> 1;
  return y * __builtin_bit_cast(V, (half + 127) << 23) *
         __builtin_bit_cast(V, (n - half + 127) << 23);
}

// As exp for x up to 88.3, which is not looked at, in fewer instructions: 0 where the result is
// below 2^-126.5. For a softmax, where no score is above the largest.
template <typename V>
static inline V exp_of_negative(V x) {
  using I = typename IntegersLike<V>::type;
  V shifted;
  const V y = reduced_exp(larger(V{} - 88.0f, x), shifted);
  return y * __builtin_bit_cast(V, __builtin_bit_cast(I, shifted) << 23);
}

// The same for any x: inf where the result is beyond 2^127.5. For a sigmoid.
template <typename V>
static inline V exp_of_normal(V x) {
  return exp_of_negative(x > 89.0f ? V{} + 89.0f : x);  // 2^128 in an exponent field is inf
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
