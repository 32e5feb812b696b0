// Sums over the threads of a warp, and of a row of threads of a block; the same bits on every run.

#pragma once

#include "cuda/launch.cuh"

namespace megafm::cuda {

template <typename T>
__device__ inline T warp_sum(T x, int width = 32) {
  for (int offset = width / 2; offset > 0; offset /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  }
  return x;
}

// Over the threads of one threadIdx.y, which are a power of two within a warp, or the whole block
// of whole warps. Every thread of the block calls it. `turn` counts the calls of a loop: two slots
// in turns need one barrier a call.
template <typename T>
__device__ inline T row_sum(T x, int turn) {
  MEGAFM_SHARED(T, of_warp, 2 * 32);
  x = warp_sum(x, blockDim.x < 32 ? blockDim.x : 32);
  if (blockDim.x <= 32) {
    return x;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, slot = turn % 2 * 32;
  if (lane == 0) {
    of_warp[slot + warp] = x;
  }
  __syncthreads();
  x = 0;
  if (lane < static_cast<int>(blockDim.x) / 32) {
    x = of_warp[slot + lane];
  }
  return warp_sum(x);
}

}  // namespace megafm::cuda
