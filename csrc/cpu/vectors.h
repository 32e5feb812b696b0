// Vectors of floats as wide as the instruction set's, for kernel files (see isa.h): those of the GCC
// extension, with intrinsics where compilers do not find the instruction by themselves.

#pragma once

#include "cpu/storage.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace megafm::cpu::MEGAFM_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr __mmask16 all_lanes = 0xffff;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

typedef float vec __attribute__((vector_size(vector_bytes), may_alias));
typedef float unaligned_vec __attribute__((vector_size(vector_bytes), may_alias, aligned(4)));
using ivec = decltype(vec{} < vec{});  // int32 lanes

constexpr int64_t vec_width = vector_bytes / 4;

// vec_width elements from any address.
static inline vec load_vec(const float* x) {
  return *reinterpret_cast<const unaligned_vec*>(x);
}

static inline vec load_vec(const bf16* x) {
  typedef uint16_t halves
      __attribute__((vector_size(vector_bytes / 2), may_alias, aligned(alignof(bf16))));
  const halves bits = *reinterpret_cast<const halves*>(x);
#if defined(__AVX512F__)  // g++ 12 widens them in two parts, and warns of the unmasked intrinsics
  const auto wide = __builtin_bit_cast(
      ivec, _mm512_maskz_cvtepu16_epi32(all_lanes, __builtin_bit_cast(__m256i, bits)));
#else
  const ivec wide = __builtin_convertvector(bits, ivec);
#endif
  return __builtin_bit_cast(vec, wide << 16);
}

// The first where it is above the second, else the second; so the second where one is NaN.
static inline float larger(float x, float than) {
  return x > than ? x : than;
}

// In one instruction; of a comparison and a choice between vectors compilers make two.
static inline vec larger(vec x, vec than) {
#if defined(__AVX512F__)
  return __builtin_bit_cast(
      vec, _mm512_maskz_max_ps(all_lanes, __builtin_bit_cast(__m512, x),
                               __builtin_bit_cast(__m512, than)));
#elif defined(__AVX__)
  return __builtin_bit_cast(
      vec, _mm256_max_ps(__builtin_bit_cast(__m256, x), __builtin_bit_cast(__m256, than)));
#elif defined(__x86_64__)
  return __builtin_bit_cast(
      vec, _mm_max_ps(__builtin_bit_cast(__m128, x), __builtin_bit_cast(__m128, than)));
#else
  return x > than ? x : than;
#endif
}

}  // namespace megafm::cpu::MEGAFM_ISA
