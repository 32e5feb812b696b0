// What the products of attention multiply, for kernel files (see isa.h): floats or, for bf16 tensors
// where the CPU has units for them, pairs of bf16. Sums are floats in both.

#pragma once

#include "cpu/attention.h"
#include "cpu/gemm_tile.h"

namespace megafm::cpu::MEGAFM_ISA {

static inline vec& at_vec(float* data) {
  return *reinterpret_cast<vec*>(data);
}

static inline const vec& at_vec(const float* data) {
  return *reinterpret_cast<const vec*>(data);
}

// What tensors of T are packed into: words of one float or two bf16.
template <typename T>
struct Operand {
  using type = float;
};

template <typename E>
constexpr bool is_paired = false;

// Steps of a product that sums over `count` elements.
template <typename E>
static inline int64_t steps_of(int64_t count) {
  return is_paired<E> ? (count + 1) / 2 : count;
}

// The scale is multiplied into the queries of floats and into the scores of pairs: a scaled bf16
// would be rounded once more.
template <typename E>
static inline float scale_of_queries(const AttentionShape& shape) {
  return is_paired<E> ? 1 : shape.scale;
}

template <typename E>
static inline float scale_of_scores(const AttentionShape& shape) {
  return is_paired<E> ? shape.scale : 1;
}

// A row of `count` elements, floats times `factor`; zeros up to ld words.
template <typename T>
static inline void pack_row(const T* from, int64_t count, int64_t ld, float factor, float* to) {
#pragma omp simd
  for (int64_t d = 0; d < count; ++d) {
    to[d] = load(from[d]) * factor;
  }
  for (int64_t d = count; d < ld; ++d) {
    to[d] = 0;
  }
}

// N rows, lane_count words apart, for products that sum along them.
template <int N>
static inline void store_rows(const vec (&rows)[N], float* to) {
#pragma GCC unroll 4
  for (int u = 0; u < N; ++u) {
    at_vec(to + u * lane_count) = rows[u];
  }
}

// The same for products that sum over the rows.
template <int N>
static inline void store_steps(const vec (&rows)[N], float* to) {
  store_rows(rows, to);
}

// What to_steps makes of packed rows takes this many words.
template <typename E>
static inline int64_t words_of_steps(int64_t rows, int64_t ld) {
  return is_paired<E> ? steps_of<E>(rows) * ld : 0;
}

// Packed rows for a product that sums over them: floats as they are, pairs of two rows in `to`.
static inline float* to_steps(float* rows, int64_t, int64_t, int64_t, float*) {
  return rows;
}

#if defined(__AVX512BF16__)
template <>
struct Operand<bf16> {
  using type = bf16_pair;
};

template <>
constexpr bool is_paired<bf16_pair> = true;

static inline void pack_row(const bf16* from, int64_t count, int64_t ld, float, bf16_pair* to) {
  if (count > 0) {
    __builtin_memcpy(to, from, count * sizeof(bf16));
  }
  __builtin_memset(reinterpret_cast<char*>(to) + count * sizeof(bf16), 0,
                   ld * sizeof(bf16_pair) - count * sizeof(bf16));
}

// Pairs of one element of each row, of which the second may be empty.
static inline void pair_rows(const bf16* first, int64_t count, const bf16* second,
                             int64_t count_second, int64_t ld, bf16_pair* to) {
#pragma omp simd
  for (int64_t d = 0; d < count_second; ++d) {
    to[d].bits = first[d].bits | second[d].bits << 16;
  }
  for (int64_t d = count_second; d < count; ++d) {
    to[d].bits = first[d].bits;
  }
  for (int64_t d = count; d < ld; ++d) {
    to[d].bits = 0;
  }
}

static inline bf16_pair* to_steps(bf16_pair* rows, int64_t ld_rows, int64_t count, int64_t ld,
                                  bf16_pair* to) {
  for (int64_t i = 0; i < count; i += 2) {
    const auto* first = reinterpret_cast<const bf16*>(rows + i * ld_rows);
    pair_rows(first, ld, first + 2 * ld_rows, ld, ld, to + i / 2 * ld);
  }
  return to;
}

typedef uint16_t bf16_lanes __attribute__((vector_size(64)));

// Rounded to nearest even: the lanes of the first, then those of the second.
static inline bf16_lanes rounded(vec first, vec second) {
  return __builtin_bit_cast(bf16_lanes, _mm512_cvtne2ps_pbh(__builtin_bit_cast(__m512, second),
                                                            __builtin_bit_cast(__m512, first)));
}

template <int N>
static inline void store_rows(const vec (&rows)[N], bf16_pair* to) {
  typedef uint16_t row_lanes __attribute__((vector_size(32), may_alias));
#pragma GCC unroll 2
  for (int u = 0; u < N; u += 2) {
    const bf16_lanes lanes = rounded(rows[u], rows[u + 1]);
    *reinterpret_cast<row_lanes*>(to + u * lane_count) = __builtin_shufflevector(
        lanes, lanes, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    *reinterpret_cast<row_lanes*>(to + (u + 1) * lane_count) = __builtin_shufflevector(
        lanes, lanes, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
  }
}

template <int N>
static inline void store_steps(const vec (&rows)[N], bf16_pair* to) {
#pragma GCC unroll 2
  for (int u = 0; u < N; u += 2) {
    const bf16_lanes lanes = rounded(rows[u], rows[u + 1]);
    at_vec(reinterpret_cast<float*>(to) + u / 2 * lane_count) = __builtin_bit_cast(
        vec, __builtin_shufflevector(lanes, lanes, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                     7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                     15, 31));
  }
}
#endif

}  // namespace megafm::cpu::MEGAFM_ISA
