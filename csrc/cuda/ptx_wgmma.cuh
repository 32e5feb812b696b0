// Part of ptx.cuh: wgmma (sm_90a), products of a warpgroup, four warps from a multiple of four on.
//
// wgmma_fence, some wgmma, wgmma_commit, wgmma_wait: accumulators and registers of a must not be
// touched in between, matrices in shared memory not be written.

#pragma once

#include "cuda/ptx_sm90.cuh"

namespace megafm::cuda {

// Before the first wgmma and whenever accumulators or registers of a were touched.
__device__ __forceinline__ void wgmma_fence() {
  MEGAFM_PTX(emulator::wgmma_fence(), "wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  MEGAFM_PTX(emulator::wgmma_commit(), "wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Wait until all but the last `pending` groups are done.
template <int pending>
__device__ __forceinline__ void wgmma_wait() {
  MEGAFM_PTX(emulator::wgmma_wait(pending),
             "wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// Keeps the compiler from moving what touches these registers across: it does not know that a
// wgmma still writes them.
template <int count>
__device__ __forceinline__ void pin(float (&registers)[count]) {
#ifndef MEGAFM_EMULATE
#pragma unroll
  for (int i = 0; i < count; ++i) asm volatile("" : "+f"(registers[i])::"memory");
#else
  (void)registers;
#endif
}

// Where a matrix of 16-bit elements lies: `outer` x k, where outer is m of a or n of b.
//   K major, rows of 8 as long as the swizzle: `stride` from 8 rows to the next 8. Not swizzled:
//     8 x 8 blocks of 128 bytes; `leading` to the next along k, `stride` along outer.
//   Transposed (outer is contiguous): rows of k as long as the swizzle; `stride` from 8 k to the
//     next 8, `leading` from one row's length of outer to the next. Not swizzled: 8 x 8 blocks of
//     128 bytes; `stride` to the next along outer, `leading` along k.
// `start`, a multiple of 16 bytes, may point within a swizzled row: 16 k further are 32 bytes.
__device__ __forceinline__ uint64_t wgmma_matrix(uint32_t start, uint32_t leading, uint32_t stride,
                                                 Swizzle swizzle) {
  const uint64_t mode = (4 - static_cast<uint32_t>(swizzle)) & 3;  // none, 128, 64, 32 bytes
  return static_cast<uint64_t>(start >> 4 & 0x3fff) |
         static_cast<uint64_t>(leading >> 4 & 0x3fff) << 16 |
         static_cast<uint64_t>(stride >> 4 & 0x3fff) << 32 | mode << 62;
}

#ifdef MEGAFM_EMULATE

template <int n, typename T, bool transposed_a = false, bool transposed_b = false>
void wgmma(float (&d)[n / 2], uint64_t a, uint64_t b, bool accumulates) {
  emulator::wgmma({d, nullptr, a, b, n, std::is_same_v<T, __nv_bfloat16>, transposed_a,
                   transposed_b, accumulates});
}

template <int n, typename T, bool transposed_b = false>
void wgmma(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, bool accumulates) {
  emulator::wgmma(
      {d, a, 0, b, n, std::is_same_v<T, __nv_bfloat16>, false, transposed_b, accumulates});
}

#else

// Operands %0 to %(n / 2 - 1), as text and as constraints.
#define MEGAFM_TEXT_8(a, b, c, d, e, f, g, h) \
  "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", %" #f ", %" #g ", %" #h
#define MEGAFM_TEXT_0_15 \
  MEGAFM_TEXT_8(0, 1, 2, 3, 4, 5, 6, 7) ", " MEGAFM_TEXT_8(8, 9, 10, 11, 12, 13, 14, 15)
#define MEGAFM_TEXT_16_31 \
  MEGAFM_TEXT_8(16, 17, 18, 19, 20, 21, 22, 23) ", " MEGAFM_TEXT_8(24, 25, 26, 27, 28, 29, 30, 31)
#define MEGAFM_TEXT_32_47 \
  MEGAFM_TEXT_8(32, 33, 34, 35, 36, 37, 38, 39) ", " MEGAFM_TEXT_8(40, 41, 42, 43, 44, 45, 46, 47)
#define MEGAFM_TEXT_48_63 \
  MEGAFM_TEXT_8(48, 49, 50, 51, 52, 53, 54, 55) ", " MEGAFM_TEXT_8(56, 57, 58, 59, 60, 61, 62, 63)
#define MEGAFM_TEXT_64_79 \
  MEGAFM_TEXT_8(64, 65, 66, 67, 68, 69, 70, 71) ", " MEGAFM_TEXT_8(72, 73, 74, 75, 76, 77, 78, 79)
#define MEGAFM_TEXT_80_95 \
  MEGAFM_TEXT_8(80, 81, 82, 83, 84, 85, 86, 87) ", " MEGAFM_TEXT_8(88, 89, 90, 91, 92, 93, 94, 95)
#define MEGAFM_TEXT_96_111 MEGAFM_TEXT_8(96, 97, 98, 99, 100, 101, 102, 103) \
  ", " MEGAFM_TEXT_8(104, 105, 106, 107, 108, 109, 110, 111)
#define MEGAFM_TEXT_112_127 MEGAFM_TEXT_8(112, 113, 114, 115, 116, 117, 118, 119) \
  ", " MEGAFM_TEXT_8(120, 121, 122, 123, 124, 125, 126, 127)
#define MEGAFM_TEXT_16 MEGAFM_TEXT_0_15
#define MEGAFM_TEXT_32 MEGAFM_TEXT_16 ", " MEGAFM_TEXT_16_31
#define MEGAFM_TEXT_48 MEGAFM_TEXT_32 ", " MEGAFM_TEXT_32_47
#define MEGAFM_TEXT_64 MEGAFM_TEXT_48 ", " MEGAFM_TEXT_48_63
#define MEGAFM_TEXT_96 MEGAFM_TEXT_64 ", " MEGAFM_TEXT_64_79 ", " MEGAFM_TEXT_80_95
#define MEGAFM_TEXT_128 MEGAFM_TEXT_96 ", " MEGAFM_TEXT_96_111 ", " MEGAFM_TEXT_112_127
#define MEGAFM_OPERANDS_8(i)                                                                \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define MEGAFM_OPERANDS_16(i) MEGAFM_OPERANDS_8(i), MEGAFM_OPERANDS_8(i + 8)
#define MEGAFM_OPERANDS_32(i) MEGAFM_OPERANDS_16(i), MEGAFM_OPERANDS_16(i + 16)
#define MEGAFM_OPERANDS_48(i) MEGAFM_OPERANDS_32(i), MEGAFM_OPERANDS_16(i + 32)
#define MEGAFM_OPERANDS_64(i) MEGAFM_OPERANDS_32(i), MEGAFM_OPERANDS_32(i + 32)
#define MEGAFM_OPERANDS_96(i) MEGAFM_OPERANDS_64(i), MEGAFM_OPERANDS_32(i + 64)
#define MEGAFM_OPERANDS_128(i) MEGAFM_OPERANDS_64(i), MEGAFM_OPERANDS_64(i + 64)

// n of the instruction, its accumulators per thread (n / 2), and the numbers of the operands behind
// them. "scale" is the predicate whether d is added to.
#define MEGAFM_WGMMA_HEAD(n, type, scale)               \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %" #scale ", 0;\n" \
  "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type
#define MEGAFM_WGMMA_SHARED(n, count, type, a_, b_, scale, trans_a, trans_b)                      \
  asm volatile(MEGAFM_WGMMA_HEAD(n, type, scale)                                                  \
               " {" MEGAFM_TEXT_##count "}, %" #a_ ", %" #b_ ", p, 1, 1, %" #trans_a ", %" #trans_b \
               ";\n}"                                                                             \
               : MEGAFM_OPERANDS_##count(0)                                                       \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulates)), "n"(int{transposed_a}),      \
                 "n"(int{transposed_b}))
#define MEGAFM_WGMMA_REGISTERS(n, count, type, a0, a1, a2, a3, b_, scale, trans_b)                \
  asm volatile(MEGAFM_WGMMA_HEAD(n, type, scale)                                                  \
               " {" MEGAFM_TEXT_##count "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b_        \
               ", p, 1, 1, %" #trans_b ";\n}"                                                     \
               : MEGAFM_OPERANDS_##count(0)                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                              \
                 "r"(static_cast<int>(accumulates)), "n"(int{transposed_b}))

// One branch per shape: kind is SHARED or REGISTERS.
#define MEGAFM_WGMMA_OF(shape, kind, count, ...)                      \
  if constexpr (n == shape && std::is_same_v<T, __nv_bfloat16>) {     \
    MEGAFM_WGMMA_##kind(shape, count, "bf16", __VA_ARGS__);           \
  } else if constexpr (n == shape) {                                  \
    static_assert(std::is_same_v<T, __half>);                         \
    MEGAFM_WGMMA_##kind(shape, count, "f16", __VA_ARGS__);            \
  }

template <int n>
constexpr bool is_wgmma_n = n == 32 || n == 64 || n == 96 || n == 128 || n == 192 || n == 256;

// d += a b, or d = a b unless `accumulates`, with a 64 x 16 and b 16 x n. Warp w of the warpgroup
// has rows 16 w to 16 w + 15; of thread l of a warp, with g = l / 4 and t = l % 4, d[4 j] and the
// next are columns 8 j + 2 t and the next of row g, d[4 j + 2] and the next of row g + 8.
template <int n, typename T, bool transposed_a = false, bool transposed_b = false>
__device__ __forceinline__ void wgmma(float (&d)[n / 2], uint64_t a, uint64_t b, bool accumulates) {
  static_assert(is_wgmma_n<n>);
  MEGAFM_WGMMA_OF(32, SHARED, 16, 16, 17, 18, 19, 20)
  MEGAFM_WGMMA_OF(64, SHARED, 32, 32, 33, 34, 35, 36)
  MEGAFM_WGMMA_OF(96, SHARED, 48, 48, 49, 50, 51, 52)
  MEGAFM_WGMMA_OF(128, SHARED, 64, 64, 65, 66, 67, 68)
  MEGAFM_WGMMA_OF(192, SHARED, 96, 96, 97, 98, 99, 100)
  MEGAFM_WGMMA_OF(256, SHARED, 128, 128, 129, 130, 131, 132)
}

// The same with a in registers, laid out as mma_m16n8k16's.
template <int n, typename T, bool transposed_b = false>
__device__ __forceinline__ void wgmma(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b,
                                      bool accumulates) {
  static_assert(is_wgmma_n<n>);
  MEGAFM_WGMMA_OF(32, REGISTERS, 16, 16, 17, 18, 19, 20, 21, 22)
  MEGAFM_WGMMA_OF(64, REGISTERS, 32, 32, 33, 34, 35, 36, 37, 38)
  MEGAFM_WGMMA_OF(96, REGISTERS, 48, 48, 49, 50, 51, 52, 53, 54)
  MEGAFM_WGMMA_OF(128, REGISTERS, 64, 64, 65, 66, 67, 68, 69, 70)
  MEGAFM_WGMMA_OF(192, REGISTERS, 96, 96, 97, 98, 99, 100, 101, 102)
  MEGAFM_WGMMA_OF(256, REGISTERS, 128, 128, 129, 130, 131, 132, 133, 134)
}

#endif

}  // namespace megafm::cuda
