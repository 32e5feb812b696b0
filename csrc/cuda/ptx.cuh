// All inline PTX, each instruction as a function with two bodies: the assembly, and the emulator's
// call (csrc/emulator/README.md). Names and semantics are those of the PTX ISA, chapter 9.7. This
// is what sm_80 has; ptx_sm90.cuh and ptx_wgmma.cuh hold the rest.
//
// Addresses of shared memory are the 32-bit ones of shared_address(). Functions that say "warp" are
// called by all lanes together, converged.

#pragma once

#include "cuda/launch.cuh"

#ifdef MEGAFM_EMULATE
#include "emulator/ptx.h"
#define MEGAFM_PTX(call, ...) call
#else
#define MEGAFM_PTX(call, ...) asm volatile(__VA_ARGS__)
#endif

namespace megafm::cuda {

// --- float functions, approximate to the last bits

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  MEGAFM_PTX(y = exp2f(x), "ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2_approx(float x) {
  float y;
  MEGAFM_PTX(y = log2f(x), "lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float tanh_approx(float x) {
  float y;
  MEGAFM_PTX(y = tanhf(x), "tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float rcp_approx(float x) {
  float y;
  MEGAFM_PTX(y = 1 / x, "rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- pairs of 16-bit floats in a register, the first in the low half (round to nearest even)

template <typename T>
__device__ __forceinline__ uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ uint32_t pack<__nv_bfloat16>(float low, float high) {
  uint32_t pair;
  MEGAFM_PTX(pair = emulator::pack<__nv_bfloat16>(low, high),
             "cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

template <>
__device__ __forceinline__ uint32_t pack<__half>(float low, float high) {
  uint32_t pair;
  MEGAFM_PTX(pair = emulator::pack<__half>(low, high),
             "cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// --- named barriers (0 is __syncthreads); `count` threads in all, those that only arrive included

__device__ __forceinline__ void named_barrier_sync(int id, int count) {
  MEGAFM_PTX(emulator::named_barrier_sync(id, count),
             "bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}

__device__ __forceinline__ void named_barrier_arrive(int id, int count) {
  MEGAFM_PTX(emulator::named_barrier_arrive(id, count),
             "bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
}

// --- cp.async (sm_80): global to shared memory behind the thread's back

// Copy `source_bytes` and fill up to `bytes` (4, 8 or 16) with zeros. 16 bytes bypass L1.
template <int bytes>
__device__ __forceinline__ void cp_async(uint32_t to, const void* from, int source_bytes = bytes) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  if constexpr (bytes == 16) {
    MEGAFM_PTX(emulator::cp_async(to, from, bytes, source_bytes),
               "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(source_bytes) : "memory");
  } else {
    MEGAFM_PTX(emulator::cp_async(to, from, bytes, source_bytes),
               "cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(bytes),
               "r"(source_bytes) : "memory");
  }
}

__device__ __forceinline__ void cp_async_commit() {
  MEGAFM_PTX(emulator::cp_async_commit(), "cp.async.commit_group;" ::: "memory");
}

// Wait until at most the last `pending` groups of this thread are under way.
template <int pending>
__device__ __forceinline__ void cp_async_wait() {
  MEGAFM_PTX(emulator::cp_async_wait(pending), "cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// --- ldmatrix: n matrices of 8 x 8 16-bit elements, by a warp

// Lane 8 i + r gives the address of row r of matrix i, 16 bytes. Lane l gets elements (l / 4,
// 2 (l % 4)) and the next of matrix i in r[i]; of its transpose if `transposed`.
template <int n, bool transposed = false>
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[n], uint32_t row) {
  static_assert(n == 1 || n == 2 || n == 4);
  if constexpr (n == 1 && !transposed) {
    MEGAFM_PTX(emulator::ldmatrix(r, n, transposed, row),
               "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0]) : "r"(row) : "memory");
  } else if constexpr (n == 1) {
    MEGAFM_PTX(emulator::ldmatrix(r, n, transposed, row),
               "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0]) : "r"(row) : "memory");
  } else if constexpr (n == 2 && !transposed) {
    MEGAFM_PTX(emulator::ldmatrix(r, n, transposed, row),
               "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(row) : "memory");
  } else if constexpr (n == 2) {
    MEGAFM_PTX(emulator::ldmatrix(r, n, transposed, row),
               "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(row) : "memory");
  } else if constexpr (!transposed) {
    MEGAFM_PTX(emulator::ldmatrix(r, n, transposed, row),
               "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
  } else {
    MEGAFM_PTX(emulator::ldmatrix(r, n, transposed, row),
               "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
  }
}

// --- mma.sync (sm_80): d += a b by a warp, a 16 x 16, b 16 x 8, of bf16 or fp16, d float

// With g = lane / 4 and t = lane % 4, pairs of elements lie as follows:
//   a[0], a[1]: rows g, g + 8 at columns 2 t; a[2], a[3]: the same at columns 2 t + 8
//   b0, b1: column g at rows 2 t and 2 t + 8
//   d[0..1], d[2..3]: rows g and g + 8 at columns 2 t
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    MEGAFM_PTX(emulator::mma_m16n8k16<T>(d, a, b0, b1),
               "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<T, __half>);
    MEGAFM_PTX(emulator::mma_m16n8k16<T>(d, a, b0, b1),
               "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

}  // namespace megafm::cuda
