// Transposes a square of floats in registers, or sums its rows, for kernel files (see isa.h).

#pragma once

#include "cpu/gemm_tile.h"

// The halves of two vectors, interleaved: the indices that __builtin_shufflevector wants.
#if defined(__AVX512F__)
#define MEGAFM_LOW_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define MEGAFM_HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX__)
#define MEGAFM_LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define MEGAFM_HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#else
#define MEGAFM_LOW_HALVES 0, 4, 1, 5
#define MEGAFM_HIGH_HALVES 2, 6, 3, 7
#endif

namespace megafm::cpu::MEGAFM_ISA {

// to (vec_width x vec_width) = from transposed. Interleaving vector i with vector i + width / 2
// rotates the bits of every element's (row, column) by one: log2(width) rounds swap the two.
static inline void transpose_tile(const float* from, int64_t ld_from, float* to, int64_t ld_to) {
  vec rows[vec_width];
#pragma GCC unroll 16
  for (int64_t i = 0; i < vec_width; ++i) {
    rows[i] = *reinterpret_cast<const vec*>(from + i * ld_from);
  }
#pragma GCC unroll 4
  for (int64_t round = 1; round < vec_width; round *= 2) {
    vec mixed[vec_width];
#pragma GCC unroll 8
    for (int64_t i = 0; i < vec_width / 2; ++i) {
      const vec a = rows[i], b = rows[i + vec_width / 2];
      mixed[2 * i] = __builtin_shufflevector(a, b, MEGAFM_LOW_HALVES);
      mixed[2 * i + 1] = __builtin_shufflevector(a, b, MEGAFM_HIGH_HALVES);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < vec_width; ++i) {
      rows[i] = mixed[i];
    }
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < vec_width; ++i) {
    *reinterpret_cast<vec*>(to + i * ld_to) = rows[i];
  }
}

// Lane i of the result: the sum of all lanes of rows[i]. As a transposition, but in each round what
// was interleaved is added.
static inline vec sum_of_each(vec (&rows)[vec_width]) {
#pragma GCC unroll 4
  for (int64_t left = vec_width / 2; left > 0; left /= 2) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < left; ++i) {
      const vec a = rows[i], b = rows[i + left];
      rows[i] = __builtin_shufflevector(a, b, MEGAFM_LOW_HALVES) +
                __builtin_shufflevector(a, b, MEGAFM_HIGH_HALVES);
    }
  }
  return rows[0];
}

}  // namespace megafm::cpu::MEGAFM_ISA

#undef MEGAFM_LOW_HALVES
#undef MEGAFM_HIGH_HALVES
