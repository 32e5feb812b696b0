// Part of ptx.cuh: what came with sm_90, mbarriers and bulk copies (TMA) above all.

#pragma once

#include "cuda/ptx.cuh"
#include "cuda/tensor_map.cuh"

namespace megafm::cuda {

// True on one lane of the warp.
__device__ __forceinline__ bool elect_one() {
  int elected;
  MEGAFM_PTX(elected = emulator::elect_one(),
             "{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.b32 %0, 1, 0, p;\n}"
             : "=r"(elected));
  return elected != 0;
}

// --- stmatrix, the inverse of ldmatrix: registers to rows, by a warp

template <int n, bool transposed = false>
__device__ __forceinline__ void stmatrix(uint32_t row, const uint32_t (&r)[n]) {
  static_assert(n == 1 || n == 2 || n == 4);
  if constexpr (n == 1 && !transposed) {
    MEGAFM_PTX(emulator::stmatrix(r, n, transposed, row),
               "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(row), "r"(r[0])
               : "memory");
  } else if constexpr (n == 1) {
    MEGAFM_PTX(emulator::stmatrix(r, n, transposed, row),
               "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(row), "r"(r[0])
               : "memory");
  } else if constexpr (n == 2 && !transposed) {
    MEGAFM_PTX(emulator::stmatrix(r, n, transposed, row),
               "stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row), "r"(r[0]),
               "r"(r[1]) : "memory");
  } else if constexpr (n == 2) {
    MEGAFM_PTX(emulator::stmatrix(r, n, transposed, row),
               "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(row),
               "r"(r[0]), "r"(r[1]) : "memory");
  } else if constexpr (!transposed) {
    MEGAFM_PTX(emulator::stmatrix(r, n, transposed, row),
               "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
  } else {
    MEGAFM_PTX(emulator::stmatrix(r, n, transposed, row),
               "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
  }
}

// --- mbarrier: 8 bytes of shared memory, the address a multiple of 8

// A phase is over once `count` threads arrived and all expected bytes came.
__device__ __forceinline__ void mbarrier_init(uint32_t mbarrier, uint32_t count) {
  MEGAFM_PTX(emulator::mbarrier_init(mbarrier, count),
             "mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mbarrier), "r"(count) : "memory");
}

__device__ __forceinline__ void mbarrier_inval(uint32_t mbarrier) {
  MEGAFM_PTX(emulator::mbarrier_inval(mbarrier),
             "mbarrier.inval.shared::cta.b64 [%0];" ::"r"(mbarrier) : "memory");
}

// Between the inits of this thread and copies that complete on those mbarriers.
__device__ __forceinline__ void fence_mbarrier_init() {
  MEGAFM_PTX(emulator::fence_mbarrier_init(), "fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t mbarrier) {
  MEGAFM_PTX(emulator::mbarrier_arrive(mbarrier, 0),
             "mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(mbarrier) : "memory");
}

// Arrive, and let the phase wait for `bytes` more.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t mbarrier, uint32_t bytes) {
  MEGAFM_PTX(emulator::mbarrier_arrive(mbarrier, bytes),
             "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(mbarrier), "r"(bytes)
             : "memory");
}

// Whether the phase of this parity is over; may take a while to say no. Phases count from 0, and
// the one before the first counts as over: parity 1 of a fresh mbarrier.
__device__ __forceinline__ bool mbarrier_try_wait(uint32_t mbarrier, uint32_t parity) {
  int over;
  MEGAFM_PTX(over = emulator::mbarrier_try_wait(mbarrier, parity),
             "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
             "selp.b32 %0, 1, 0, p;\n}"
             : "=r"(over) : "r"(mbarrier), "r"(parity) : "memory");
  return over != 0;
}

__device__ __forceinline__ void mbarrier_wait(uint32_t mbarrier, uint32_t parity) {
#ifdef MEGAFM_EMULATE
  emulator::mbarrier_wait(mbarrier, parity);
#else
  while (!mbarrier_try_wait(mbarrier, parity)) {
  }
#endif
}

// Between this thread's plain writes of shared memory and bulk copies or wgmma that read them.
__device__ __forceinline__ void fence_proxy_async() {
  MEGAFM_PTX(emulator::fence_proxy_async(), "fence.proxy.async.shared::cta;" ::: "memory");
}

// --- bulk copies to shared memory; each brings its bytes to an mbarrier

// The box of the map at `corner` (elements, dimension 0 first); what lies outside the tensor is
// zeros, and counts among the bytes. `to` is a multiple of 128 bytes (of 1024 where swizzled).
template <int rank>
__device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap* map, uint32_t mbarrier,
                                         const int32_t (&corner)[rank]) {
  static_assert(rank >= 2 && rank <= 5);
  if constexpr (rank == 2) {
    MEGAFM_PTX(emulator::tma_load(to, map, mbarrier, corner, rank),
               "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4}], [%2];" ::"r"(to), "l"(map), "r"(mbarrier), "r"(corner[0]),
               "r"(corner[1]) : "memory");
  } else if constexpr (rank == 3) {
    MEGAFM_PTX(emulator::tma_load(to, map, mbarrier, corner, rank),
               "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to), "l"(map), "r"(mbarrier),
               "r"(corner[0]), "r"(corner[1]), "r"(corner[2]) : "memory");
  } else if constexpr (rank == 4) {
    MEGAFM_PTX(emulator::tma_load(to, map, mbarrier, corner, rank),
               "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to), "l"(map), "r"(mbarrier),
               "r"(corner[0]), "r"(corner[1]), "r"(corner[2]), "r"(corner[3]) : "memory");
  } else {
    MEGAFM_PTX(emulator::tma_load(to, map, mbarrier, corner, rank),
               "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to), "l"(map), "r"(mbarrier),
               "r"(corner[0]), "r"(corner[1]), "r"(corner[2]), "r"(corner[3]), "r"(corner[4])
               : "memory");
  }
}

// Fetch the map itself ahead of its first use.
__device__ __forceinline__ void tma_prefetch(const CUtensorMap* map) {
  MEGAFM_PTX((void)map, "prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// `bytes`, a multiple of 16, in a row.
__device__ __forceinline__ void bulk_load(uint32_t to, const void* from, uint32_t bytes,
                                          uint32_t mbarrier) {
  MEGAFM_PTX(emulator::bulk_load(to, from, bytes, mbarrier),
             "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
             "[%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(mbarrier) : "memory");
}

// --- bulk copies to global memory, in groups of the thread that started them

template <int rank>
__device__ __forceinline__ void tma_store(const CUtensorMap* map, uint32_t from,
                                          const int32_t (&corner)[rank]) {
  static_assert(rank >= 2 && rank <= 5);
  if constexpr (rank == 2) {
    MEGAFM_PTX(emulator::tma_store(map, from, corner, rank, false),
               "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::
                   "l"(map), "r"(from), "r"(corner[0]), "r"(corner[1]) : "memory");
  } else if constexpr (rank == 3) {
    MEGAFM_PTX(emulator::tma_store(map, from, corner, rank, false),
               "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group "
               "[%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(from), "r"(corner[0]), "r"(corner[1]),
               "r"(corner[2]) : "memory");
  } else if constexpr (rank == 4) {
    MEGAFM_PTX(emulator::tma_store(map, from, corner, rank, false),
               "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group "
               "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map), "r"(from), "r"(corner[0]),
               "r"(corner[1]), "r"(corner[2]), "r"(corner[3]) : "memory");
  } else {
    MEGAFM_PTX(emulator::tma_store(map, from, corner, rank, false),
               "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group "
               "[%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map), "r"(from), "r"(corner[0]),
               "r"(corner[1]), "r"(corner[2]), "r"(corner[3]), "r"(corner[4]) : "memory");
  }
}

// Add the tile to the tensor's elements, atomically each.
template <int rank>
__device__ __forceinline__ void tma_reduce_add(const CUtensorMap* map, uint32_t from,
                                               const int32_t (&corner)[rank]) {
  static_assert(rank >= 2 && rank <= 5);
  if constexpr (rank == 2) {
    MEGAFM_PTX(emulator::tma_store(map, from, corner, rank, true),
               "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group "
               "[%0, {%2, %3}], [%1];" ::"l"(map), "r"(from), "r"(corner[0]), "r"(corner[1])
               : "memory");
  } else if constexpr (rank == 3) {
    MEGAFM_PTX(emulator::tma_store(map, from, corner, rank, true),
               "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group "
               "[%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(from), "r"(corner[0]), "r"(corner[1]),
               "r"(corner[2]) : "memory");
  } else if constexpr (rank == 4) {
    MEGAFM_PTX(emulator::tma_store(map, from, corner, rank, true),
               "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group "
               "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map), "r"(from), "r"(corner[0]),
               "r"(corner[1]), "r"(corner[2]), "r"(corner[3]) : "memory");
  } else {
    MEGAFM_PTX(emulator::tma_store(map, from, corner, rank, true),
               "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group "
               "[%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map), "r"(from), "r"(corner[0]),
               "r"(corner[1]), "r"(corner[2]), "r"(corner[3]), "r"(corner[4]) : "memory");
  }
}

__device__ __forceinline__ void bulk_store(void* to, uint32_t from, uint32_t bytes) {
  MEGAFM_PTX(emulator::bulk_store(to, from, bytes, false),
             "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
             "r"(bytes) : "memory");
}

// Add floats to those in global memory, atomically each.
__device__ __forceinline__ void bulk_reduce_add(float* to, uint32_t from, uint32_t bytes) {
  MEGAFM_PTX(emulator::bulk_store(to, from, bytes, true),
             "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
             "r"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void bulk_commit() {
  MEGAFM_PTX(emulator::bulk_commit(), "cp.async.bulk.commit_group;" ::: "memory");
}

// Wait until all but the last `pending` groups are done.
template <int pending>
__device__ __forceinline__ void bulk_wait() {
  MEGAFM_PTX(emulator::bulk_wait(pending),
             "cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");
}

// The same until they have read shared memory, which may then be written again.
template <int pending>
__device__ __forceinline__ void bulk_wait_read() {
  MEGAFM_PTX(emulator::bulk_wait(pending),
             "cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

// --- setmaxnreg (sm_90a), by all warps of a warpgroup: registers per thread, a multiple of 8

template <int count>
__device__ __forceinline__ void setmaxnreg_dec() {
  MEGAFM_PTX(emulator::set_max_registers(count, false),
             "setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count>
__device__ __forceinline__ void setmaxnreg_inc() {
  MEGAFM_PTX(emulator::set_max_registers(count, true),
             "setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

}  // namespace megafm::cuda
