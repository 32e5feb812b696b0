// Products of small matrices that lie in cache, for kernel files (see isa.h).
//
// A tile of the product stays in registers: R rows of V vectors, where each step multiplies R
// broadcast elements of one factor with V vectors of the other. On AVX-512 4 x 4 and 8 x 2 need 8
// and 10 loads for 16 multiply-adds, so that the two units for those are what limits it. A tile is
// summed from 0 and added to what was there: long sums err like blocks of sums, not term by term.
//
// Where the CPU has units for it a step may be of two bf16 in place of one float: twice the work in
// the same time, with the same layout in words of four bytes.

#pragma once

#include "cpu/vectors.h"

namespace megafm::cpu::MEGAFM_ISA {

#if defined(__AVX512F__)
constexpr int tile_vectors = 4;
#else
constexpr int tile_vectors = 2;
#endif

constexpr int64_t row_multiple = 4;      // of the rows of every product
constexpr int64_t column_multiple = 16;  // of the columns: a vector of the widest instruction set
constexpr int64_t most_steps = 128;      // that one sum runs over

static inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

static inline vec multiply_add(float left, vec right, vec sum) {
  return sum + (vec{} + left) * right;
}

#if defined(__AVX512BF16__)
// Two bf16 that a product sums over, the first in the lower half. Denormals count as 0.
struct __attribute__((may_alias)) bf16_pair {
  int32_t bits;
};

static inline vec multiply_add(bf16_pair left, vec right, vec sum) {
  const auto lefts = __builtin_bit_cast(__m512bh, ivec{} + left.bits);
  const auto rights = __builtin_bit_cast(__m512bh, right);
  return _mm512_dpbf16_ps(__builtin_bit_cast(__m512, sum), lefts, rights);
}
#endif

// Element (i, t) of the left factor is data[i * row + t * step]: a matrix or its transpose.
template <typename E>
struct Factor {
  const E* data;
  int64_t row;
  int64_t step;
};

// What a product is added to: nothing, the output as it is, or its rows times `scales`.
enum class Start { zero, output, scaled };

template <int R, int V, Start start, typename E>
static inline void gemm_tile(Factor<E> a, const E* b, int64_t ldb, float* c, int64_t ldc,
                             int64_t steps, const float* scales) {
  vec sum[R][V] = {};
  for (int64_t t = 0; t < steps; ++t) {
    vec right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      right[v] = *reinterpret_cast<const vec*>(b + t * ldb + v * vec_width);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const E left = a.data[r * a.row + t * a.step];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        sum[r][v] = multiply_add(left, right[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      vec& at = *reinterpret_cast<vec*>(c + r * ldc + v * vec_width);
      at = start == Start::zero     ? sum[r][v]
           : start == Start::scaled ? sum[r][v] + at * scales[r]
                                    : sum[r][v] + at;
    }
  }
}

template <int V, Start start, typename E>
static void gemm_columns(Factor<E> a, const E* b, int64_t ldb, float* c, int64_t ldc,
                         int64_t rows, int64_t steps, const float* scales) {
  constexpr int R = tile_vectors == 4 && V <= 2 ? 8 : 4;
  for (; rows >= R; rows -= R) {
    gemm_tile<R, V, start>(a, b, ldb, c, ldc, steps, scales);
    a.data += R * a.row;
    c += R * ldc;
    scales += start == Start::scaled ? R : 0;
  }
  if (rows > 0) {
    gemm_tile<4, V, start>(a, b, ldb, c, ldc, steps, scales);
  }
}

// c (rows x columns) = start + a (rows x steps) * b (steps x columns). rows and columns are
// multiples of those above, b and c aligned to vectors.
template <Start start, typename E>
static void gemm(Factor<E> a, const E* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                 int64_t columns, int64_t steps, const float* scales = nullptr) {
  if (steps > most_steps) {
    gemm<start>(a, b, ldb, c, ldc, rows, columns, most_steps, scales);
    a.data += most_steps * a.step;
    b += most_steps * ldb;
    gemm<Start::output>(a, b, ldb, c, ldc, rows, columns, steps - most_steps);
    return;
  }
  constexpr int64_t widest = tile_vectors * vec_width;
  for (; columns >= widest; columns -= widest, b += widest, c += widest) {
    gemm_columns<tile_vectors, start>(a, b, ldb, c, ldc, rows, steps, scales);
  }
  if constexpr (tile_vectors == 4) {
    if (columns == 3 * vec_width) {
      gemm_columns<3, start>(a, b, ldb, c, ldc, rows, steps, scales);
    } else if (columns == 2 * vec_width) {
      gemm_columns<2, start>(a, b, ldb, c, ldc, rows, steps, scales);
    } else if (columns == vec_width) {
      gemm_columns<1, start>(a, b, ldb, c, ldc, rows, steps, scales);
    }
  }
}

}  // namespace megafm::cpu::MEGAFM_ISA
